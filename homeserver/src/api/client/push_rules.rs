//! A user's push rules.

use std::sync::Arc;

use ruma::{
    api::client::push::{
        delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::RuleKind,
};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    push::PushError,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, all);
    table.add(Group::Client, global);
    table.add(Group::Client, get);
    table.add(Group::Client, put);
    table.add(Group::Client, delete);
    table.add(Group::Client, enabled);
    table.add(Group::Client, enable);
    table.add(Group::Client, actions);
    table.add(Group::Client, set_actions);
}

/// The kind that a path names: that of rules about threads (MSC4306) goes in rulesets by another name than ruma wants here.
fn kind(kind: &RuleKind) -> RuleKind {
    match kind.as_str() {
        "postcontent" => RuleKind::PostContent,
        _ => kind.clone(),
    }
}

async fn all(
    server: Arc<Server>,
    args: Args<get_pushrules_all::v3::Request>,
) -> Result<get_pushrules_all::v3::Response, Error> {
    Ok(get_pushrules_all::v3::Response::new(server.push.rules(&args.caller.user).await?))
}

async fn global(
    server: Arc<Server>,
    args: Args<get_pushrules_global_scope::v3::Request>,
) -> Result<get_pushrules_global_scope::v3::Response, Error> {
    Ok(get_pushrules_global_scope::v3::Response::new(server.push.rules(&args.caller.user).await?))
}

async fn get(
    server: Arc<Server>,
    args: Args<get_pushrule::v3::Request>,
) -> Result<get_pushrule::v3::Response, Error> {
    let rules = server.push.rules(&args.caller.user).await?;
    let rule = rules.get(kind(&args.kind), &args.rule_id).ok_or(PushError::NoRule)?;
    Ok(get_pushrule::v3::Response::new(rule.to_owned().into()))
}

async fn put(
    server: Arc<Server>,
    args: Args<set_pushrule::v3::Request>,
) -> Result<set_pushrule::v3::Response, Error> {
    let user = args.caller.user.clone();
    let request = args.request;
    server.push.put_rule(&user, request.rule, request.after, request.before).await?;
    Ok(set_pushrule::v3::Response::new())
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_pushrule::v3::Request>,
) -> Result<delete_pushrule::v3::Response, Error> {
    server.push.delete_rule(&args.caller.user, kind(&args.kind), args.rule_id.clone()).await?;
    Ok(delete_pushrule::v3::Response::new())
}

async fn enabled(
    server: Arc<Server>,
    args: Args<get_pushrule_enabled::v3::Request>,
) -> Result<get_pushrule_enabled::v3::Response, Error> {
    let rules = server.push.rules(&args.caller.user).await?;
    let rule = rules.get(kind(&args.kind), &args.rule_id).ok_or(PushError::NoRule)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.enabled()))
}

async fn enable(
    server: Arc<Server>,
    args: Args<set_pushrule_enabled::v3::Request>,
) -> Result<set_pushrule_enabled::v3::Response, Error> {
    let (kind, id) = (kind(&args.kind), args.rule_id.clone());
    server.push.enable_rule(&args.caller.user, kind, id, args.enabled).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

async fn actions(
    server: Arc<Server>,
    args: Args<get_pushrule_actions::v3::Request>,
) -> Result<get_pushrule_actions::v3::Response, Error> {
    let rules = server.push.rules(&args.caller.user).await?;
    let rule = rules.get(kind(&args.kind), &args.rule_id).ok_or(PushError::NoRule)?;
    Ok(get_pushrule_actions::v3::Response::new(rule.actions().to_vec()))
}

async fn set_actions(
    server: Arc<Server>,
    args: Args<set_pushrule_actions::v3::Request>,
) -> Result<set_pushrule_actions::v3::Response, Error> {
    let user = args.caller.user.clone();
    let request = args.request;
    server.push.set_rule_actions(&user, kind(&request.kind), request.rule_id, request.actions).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}
