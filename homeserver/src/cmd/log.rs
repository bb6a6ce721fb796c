//! The log on standard error: text for people or JSON for programs, its filter changeable while the node runs.

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use super::CmdError;
use crate::config::LogFormat;

/// Changes what is logged.
pub(super) struct Log(Option<reload::Handle<EnvFilter, Registry>>);

impl Log {
    /// Begins to log. A second start in one process (tests) keeps the first one's log.
    pub(super) fn start(filter: &str, format: LogFormat) -> Result<Self, CmdError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let registry = tracing_subscriber::registry().with(filter);
        let began = match format {
            LogFormat::Text => {
                registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).try_init()
            }
            LogFormat::Json => registry
                .with(
                    tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr),
                )
                .try_init(),
        };
        Ok(Self(began.is_ok().then_some(handle)))
    }

    /// Whether a filter can be used.
    pub(super) fn check(filter: &str) -> Result<(), CmdError> {
        parse(filter).map(drop)
    }

    /// Logs something else from now on.
    pub(super) fn change(&self, filter: &str) -> Result<(), CmdError> {
        let filter = parse(filter)?;
        if let Some(handle) = &self.0
            && handle.reload(filter).is_err()
        {
            return Err(CmdError::Failed("the log has ended".into()));
        }
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, CmdError> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| {
        CmdError::Usage(format!("log {filter:?}: {error}; e.g. --log warn or --log warn,router=debug"))
    })?;
    // quinn reports the end of the node below it as an error of its socket; that is no news.
    Ok(match "quinn::endpoint=off".parse() {
        Ok(directive) => parsed.add_directive(directive),
        Err(_) => parsed,
    })
}
