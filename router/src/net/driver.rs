//! The loop.
use super::handle::{Request, Shared};
use super::{NodeConfig, StartError};
use std::sync::Arc;
use tokio::sync::mpsc;

pub(crate) async fn start(_: NodeConfig, _: mpsc::Receiver<Request>) -> Result<Arc<Shared>, StartError> {
    unimplemented!("lands with the loop")
}
