//! The node's own web pages: behind the links in mails, and for stages that a client cannot show itself.

mod email;
mod fallback;
mod health;
mod terms;

use std::collections::HashMap;

pub(crate) use self::terms::TERMS_PATH;

use crate::{api::routes::Table, http::args::Incoming};

/// Adds every page.
pub(crate) fn routes(table: &mut Table) {
    email::routes(table);
    fallback::routes(table);
    health::routes(table);
    terms::routes(table);
}

/// The fields of a form or of a query, decoded; of one that is named twice, the first.
pub(super) fn fields(text: &str) -> HashMap<String, String> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let mut fields = HashMap::new();
    for pair in text.split('&').take(FIELDS_MAX) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.entry(decode(name)).or_insert_with(|| decode(value));
    }
    fields
}

/// The fields of a request's query.
fn query(incoming: &Incoming) -> HashMap<String, String> {
    fields(incoming.head.uri.query().unwrap_or_default())
}

/// The fields of a form that was sent.
pub(super) fn form(incoming: &Incoming) -> HashMap<String, String> {
    fields(&String::from_utf8_lossy(&incoming.body))
}

/// No form here has more.
const FIELDS_MAX: usize = 64;
