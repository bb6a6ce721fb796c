//! What this homeserver speaks and can do.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    RoomVersionId,
    api::client::discovery::{
        get_capabilities::{
            self,
            v3::{
                AccountModerationCapability, Capabilities, GetLoginTokenCapability, RoomVersionStability,
                RoomVersionsCapability, ThirdPartyIdChangesCapability,
            },
        },
        get_supported_versions,
    },
};
use serde_json::{Value, json};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, reply::Json},
    room::core::version,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, versions);
    table.add(Group::Client, capabilities);
}

async fn versions(
    _: Arc<Server>,
    _: Args<get_supported_versions::Request>,
) -> Result<get_supported_versions::Response, Error> {
    let mut response =
        get_supported_versions::Response::new(VERSIONS.iter().map(|version| (*version).to_owned()).collect());
    response.unstable_features = FEATURES.iter().map(|feature| ((*feature).to_owned(), true)).collect();
    Ok(response)
}

async fn capabilities(
    server: Arc<Server>,
    args: Args<get_capabilities::v3::Request>,
) -> Result<Json<Value>, Error> {
    let available: BTreeMap<RoomVersionId, RoomVersionStability> = version::SUPPORTED
        .iter()
        .filter_map(|entry| {
            let id = RoomVersionId::try_from(entry.id).ok()?;
            Some((id, RoomVersionStability::from(entry.stability)))
        })
        .collect();
    let mut capabilities = Capabilities::new();
    capabilities.room_versions =
        RoomVersionsCapability::new(server.settings().default_room_version.clone(), available);
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(server.users.sends_mail());
    capabilities.get_login_token = GetLoginTokenCapability::new(true);
    // Told to administrators alone: to others it means nothing.
    if server.users.standing(&args.caller.user).await?.admin {
        let mut moderation = AccountModerationCapability::default();
        (moderation.suspend, moderation.lock) = (true, true);
        capabilities.account_moderation = moderation;
    }
    let mut told = serde_json::to_value(&capabilities).map_err(|error| Error::internal(error.to_string()))?;
    // spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4174: browsers subscribe with this key.
    told["org.matrix.msc4174.webpush"] = json!({ "enabled": true, "vapid": server.gateway.vapid().await? });
    // What ruma leaves out for being the default is said all the same.
    for always in ["m.change_password", "m.set_displayname", "m.set_avatar_url", "m.profile_fields"] {
        if told.get(always).is_none() {
            told[always] = json!({ "enabled": true });
        }
    }
    Ok(Json(json!({ "capabilities": told })))
}

/// Versions of the specification whose client side is here.
const VERSIONS: &[&str] = &[
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9",
    "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// Proposals by their unstable names, for clients that ask for these.
const FEATURES: &[&str] = &[
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc3916.stable",
    "fi.mau.msc2246",
    "uk.tcpip.msc4133",
    "org.matrix.simplified_msc3575",
    "org.matrix.msc3814",
    "org.matrix.msc4108",
    "io.element.msc4388",
    "org.matrix.msc3030",
    "org.matrix.msc3391",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3874",
    "org.matrix.msc3882",
    "org.matrix.msc3890",
    "org.matrix.msc3930",
    "org.matrix.msc3967",
    "org.matrix.msc4140",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc4262",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.msc4354",
    "org.matrix.msc4360",
];
