//! Tags of rooms: room account data of type `m.tag`.

use std::sync::Arc;

use ruma::{
    api::client::tag::{create_tag, delete_tag, get_tags},
    events::tag::{TagName, Tags},
};
use serde::{Deserialize, Serialize};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
    user::UserError,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, list);
    table.add(Group::Client, create);
    table.add(Group::Client, delete);
}

/// The content of `m.tag`.
#[derive(Default, Deserialize, Serialize)]
struct Content {
    #[serde(default)]
    tags: Tags,
}

impl Content {
    fn of(stored: Option<String>) -> Self {
        // A client may have written anything there itself; what is no list of tags counts as none.
        stored.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn text(&self) -> Result<String, UserError> {
        serde_json::to_string(self).map_err(|error| UserError::Invalid(error.to_string().into()))
    }
}

async fn list(
    server: Arc<Server>,
    args: Args<get_tags::v3::Request>,
) -> Result<get_tags::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    let stored = server.users.account_data(&args.user_id, Some(&args.room_id), TYPE).await?;
    Ok(get_tags::v3::Response::new(Content::of(stored).tags))
}

async fn create(
    server: Arc<Server>,
    args: Args<create_tag::v3::Request>,
) -> Result<create_tag::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    if args.tag.is_empty() || args.tag.len() > TAG_BYTES_MAX {
        return Err(Error::invalid_param("a tag has 1 to 255 bytes"));
    }
    let (tag, info) = (TagName::from(args.tag.clone()), args.tag_info.clone());
    change(&server, &args.user_id, &args.room_id, move |tags| {
        tags.insert(tag, info);
    })
    .await?;
    Ok(create_tag::v3::Response::new())
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_tag::v3::Request>,
) -> Result<delete_tag::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    let tag = TagName::from(args.tag.clone());
    change(&server, &args.user_id, &args.room_id, move |tags| {
        tags.remove(&tag);
    })
    .await?;
    Ok(delete_tag::v3::Response::new())
}

async fn change(
    server: &Arc<Server>,
    user: &ruma::UserId,
    room: &ruma::RoomId,
    change: impl FnOnce(&mut Tags) + Send + 'static,
) -> Result<(), Error> {
    server.limits.take(Class::Write, user.as_str())?;
    server
        .users
        .change_account_data(user, Some(room), TYPE, move |stored| {
            let mut content = Content::of(stored);
            change(&mut content.tags);
            content.text()
        })
        .await?;
    Ok(())
}

const TYPE: &str = "m.tag";
const TAG_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use ruma::events::tag::TagInfo;

    use super::*;

    #[test]
    fn anything_stored_is_read() {
        assert!(Content::of(Some("[1]".into())).tags.is_empty());
        assert!(Content::of(Some(r#"{"tags":7}"#.into())).tags.is_empty());
        let mut content = Content::of(Some(r#"{"tags":{"m.favourite":{"order":0.5}}}"#.into()));
        assert_eq!(content.tags.len(), 1);
        content.tags.insert(TagName::LowPriority, TagInfo::new());
        assert!(content.text().unwrap().contains("m.lowpriority"));
    }
}
