//! Owns JSON of events as it is signed: canonical JSON, and the numbers that rooms before version 6 may hold beside it.
//!
//! Before version 6 an event may hold fractions and integers of any size, and they are signed as the servers of that time
//! (Python) wrote them. A canonical object has no place for such a number, so [`parse`] puts a *mark* in: a string that
//! begins with a secret of this process (nobody else can write one) and goes on with the number. [`to_json`] writes the
//! numbers again. What is stored or sent never holds a mark; versions from 6 on refuse an object that does.
//!
//! spec: <https://spec.matrix.org/v1.19/rooms/v6/#canonical-json>

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::redact,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{
        self, KeyPair, PublicKeyMap, SigningKeyAlgorithm, Verified,
        required_server_signatures_to_verify_event, verify_canonical_json_bytes,
    },
};
use sha2::{Digest, Sha256};

use super::pdu::Malformed;

/// What a mark begins with.
static MARK: LazyLock<String> = LazyLock::new(|| {
    // The keys that maps are protected with are the process's own randomness.
    let random = |n: u8| RandomState::new().hash_one(n);
    format!("\u{1}{:016x}{:016x}:", random(0), random(1))
});

/// Longest number that is taken: no signed one is longer than a few dozen digits, and whatever reads it back pays by the
/// square of its length.
const NUMBER_LEN_MAX: usize = 400;

/// JSON text to an object, numbers that are not canonical as marks.
pub fn parse(text: &str) -> Result<CanonicalJsonObject, Malformed> {
    let wrong = |error: serde_json::Error| Malformed(format!("not canonical JSON: {error}"));
    match serde_json::from_str(text) {
        Ok(object) => Ok(object),
        Err(error) => match mark(text) {
            Some(marked) => serde_json::from_str(&marked).map_err(wrong),
            None => Err(wrong(error)),
        },
    }
}

/// The number that a string stands for.
pub fn number(text: &str) -> Option<&str> {
    // The first byte tells nearly always.
    if text.as_bytes().first() == Some(&1) { text.strip_prefix(MARK.as_str()) } else { None }
}

/// Whether there are numbers in it that canonical JSON has not.
pub fn is_marked(object: &CanonicalJsonObject) -> bool {
    object.values().any(value_is_marked)
}

fn value_is_marked(value: &CanonicalJsonValue) -> bool {
    match value {
        CanonicalJsonValue::String(text) => number(text).is_some(),
        CanonicalJsonValue::Array(list) => list.iter().any(value_is_marked),
        CanonicalJsonValue::Object(object) => is_marked(object),
        _ => false,
    }
}

/// Writes an object as it is signed.
pub fn to_json(object: &CanonicalJsonObject) -> Result<String, Malformed> {
    let text = serde_json::to_string(object).map_err(|error| Malformed(error.to_string()))?;
    // As JSON writes the first character of a mark.
    let written = format!("\"\\u0001{}", &MARK[1..]);
    if !text.contains(&written) {
        return Ok(text);
    }
    let mut pieces = text.split(&written);
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // A number has no quotes.
        let (number, rest) = piece.split_once('"').unwrap_or((piece, ""));
        plain.push_str(number);
        plain.push_str(rest);
    }
    Ok(plain)
}

/// The text with marks in the place of numbers that are not canonical; `None` if there are none, or one is absurd.
fn mark(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut marked = String::with_capacity(text.len() + 64);
    let (mut at, mut kept, mut any) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let begin = at;
                while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                {
                    at += 1;
                }
                if let Some(number) = written(&text[begin..at])? {
                    any = true;
                    marked.push_str(&text[kept..begin]);
                    marked.push_str("\"\\u0001");
                    marked.push_str(&MARK[1..]);
                    marked.push_str(&number);
                    marked.push('"');
                    kept = at;
                }
            }
            _ => at += 1,
        }
    }
    marked.push_str(text.get(kept..)?);
    any.then_some(marked)
}

/// How Python writes a number that is not canonical; `Some(None)` for one that is, `None` for what is no number.
fn written(number: &str) -> Option<Option<String>> {
    if number.len() > NUMBER_LEN_MAX {
        return None;
    }
    serde_json::from_str::<serde_json::Number>(number).ok()?;
    if number.contains(['.', 'e', 'E']) {
        let value: f64 = number.parse().ok().filter(|value: &f64| value.is_finite())?;
        return Some(Some(python_float(value)));
    }
    if number == "-0" {
        return Some(Some("0".to_owned()));
    }
    match number.parse::<i64>() {
        Ok(value) if ruma::Int::try_from(value).is_ok() => Some(None),
        _ => Some(Some(number.to_owned())),
    }
}

/// A float as Python's `repr` has it: the shortest digits, an exponent of two figures below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// Refuses numbers that the version does not know.
pub fn check_strict(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), Malformed> {
    if rules.authorization.strict_canonical_json && is_marked(object) {
        return Err(Malformed("not canonical JSON: a number is no integer, or too large".into()));
    }
    Ok(())
}

/// The reference hash in the alphabet of the version.
pub fn reference_hash(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, Malformed> {
    check_strict(object, rules)?;
    if !is_marked(object) {
        return signatures::reference_hash(object, rules).map_err(|error| Malformed(error.to_string()));
    }
    let hash = Sha256::digest(signed_form(object, rules)?.as_bytes());
    let alphabet = match rules.event_id_format {
        EventIdFormatVersion::V1 | EventIdFormatVersion::V2 => data_encoding::BASE64_NOPAD,
        _ => data_encoding::BASE64URL_NOPAD,
    };
    Ok(alphabet.encode(&hash))
}

/// Checks the signatures of all who have to have signed, then the content's hash.
pub fn verify_event(
    keys: &PublicKeyMap,
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Verified, Malformed> {
    check_strict(object, rules)?;
    if !is_marked(object) {
        return signatures::verify_event(keys, object, rules).map_err(|error| Malformed(error.to_string()));
    }
    let form = signed_form(object, rules)?;
    let servers = required_server_signatures_to_verify_event(object, &rules.signatures)
        .map_err(|error| Malformed(error.to_string()))?;
    let by = |server: &str| object.get("signatures")?.as_object()?.get(server)?.as_object();
    for server in servers {
        let signed = by(server.as_str()).into_iter().flatten().any(|(id, signature)| {
            let key = keys.get(server.as_str()).and_then(|keys| keys.get(id));
            let signature: Option<Base64> = signature.as_str().and_then(|text| Base64::parse(text).ok());
            id.starts_with("ed25519:")
                && key.zip(signature).is_some_and(|(key, signature)| {
                    verify_canonical_json_bytes(
                        &SigningKeyAlgorithm::Ed25519,
                        key.as_bytes(),
                        signature.as_bytes(),
                        form.as_bytes(),
                    )
                    .is_ok()
                })
        });
        if !signed {
            return Err(Malformed(format!("{server} has not signed the event")));
        }
    }
    let said =
        object.get("hashes").and_then(CanonicalJsonValue::as_object).and_then(|hashes| hashes.get("sha256"));
    let said: Option<Base64> =
        said.and_then(CanonicalJsonValue::as_str).and_then(|hash| Base64::parse(hash).ok());
    let hash = Sha256::digest(without(object, &["hashes", "signatures", "unsigned"])?.as_bytes());
    Ok(match said {
        Some(said) if said.as_bytes() == &hash[..] => Verified::All,
        _ => Verified::Signatures,
    })
}

/// Adds a signature of ours.
pub fn sign_event(
    name: &str,
    key: &impl KeyPair,
    object: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<(), Malformed> {
    if !is_marked(object) {
        return signatures::sign_event(name, key, object, &rules.redaction)
            .map_err(|error| Malformed(error.to_string()));
    }
    let signature = key.sign(signed_form(object, rules)?.as_bytes());
    let all = object.entry("signatures".to_owned()).or_insert_with(|| CanonicalJsonObject::new().into());
    let CanonicalJsonValue::Object(all) = all else {
        return Err(Malformed("`signatures` is no object".into()));
    };
    let ours = all.entry(name.to_owned()).or_insert_with(|| CanonicalJsonObject::new().into());
    if let CanonicalJsonValue::Object(ours) = ours {
        ours.insert(signature.id(), signature.base64().into());
    }
    Ok(())
}

/// What is signed and hashed of an event: its pruned form.
fn signed_form(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, Malformed> {
    let pruned =
        redact(object.clone(), &rules.redaction, None).map_err(|error| Malformed(error.to_string()))?;
    without(&pruned, &["signatures", "unsigned"])
}

fn without(object: &CanonicalJsonObject, keys: &[&str]) -> Result<String, Malformed> {
    let mut object = object.clone();
    object.retain(|key, _| !keys.contains(&key.as_str()));
    to_json(&object)
}

#[cfg(test)]
mod tests {
    use ruma::signatures::Ed25519KeyPair;
    use serde_json::json;

    use super::*;
    use crate::room::core::version;

    #[test]
    fn numbers_come_back_as_python_writes_them() {
        // What Python's json makes of it (checked with CPython 3.12).
        for (text, python) in [
            ("1.5", "1.5"),
            ("1.0", "1.0"),
            ("1e0", "1.0"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("9007199254740992", "9007199254740992"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1", "0.1"),
        ] {
            let object = parse(&format!("{{ \"a\": [{text}], \"b\": \"x: 1.5, \\\" 2.5\" }}")).unwrap();
            assert!(is_marked(&object), "{text}");
            assert_eq!(to_json(&object).unwrap(), format!("{{\"a\":[{python}],\"b\":\"x: 1.5, \\\" 2.5\"}}"));
        }
        for text in ["1", "-1", "9007199254740991"] {
            assert!(!is_marked(&parse(&format!("{{\"a\":{text}}}")).unwrap()));
        }
        for bad in
            ["{\"a\":1e999}", "{\"a\":1.}", "{\"a\":--1.5}", "{\"a\":1.5", "[1.5]", "{\"a\":\"\\", "1.5"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        // Nobody can write a mark who does not know the process's secret.
        let forged = parse("{\"a\":\"\\u0001n1.5\",\"b\":2.5}").unwrap();
        assert_eq!(to_json(&forged).unwrap(), "{\"a\":\"\\u0001n1.5\",\"b\":2.5}");
    }

    #[test]
    fn events_with_any_numbers_are_signed_and_hashed_before_version_6() {
        let key = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".into()).unwrap();
        let keys = PublicKeyMap::from([(
            "x".to_owned(),
            [("ed25519:1".to_owned(), Base64::new(key.public_key().to_vec()))].into(),
        )]);
        let mut event = parse(
            &json!({
                "type": "m.room.power_levels", "sender": "@user:x", "room_id": "!room:x", "state_key": "",
                "content": { "users_default": 1.5, "ban": 1e300, "age": 0.25 }, "prev_events": [], "auth_events": [],
                "depth": 3, "origin_server_ts": 1, "event_id": "$1:x",
            })
            .to_string(),
        )
        .unwrap();
        let rules = version::rules("5").unwrap();
        let hash = Sha256::digest(without(&event, &[]).unwrap().as_bytes());
        let hash = CanonicalJsonObject::from([(
            "sha256".to_owned(),
            data_encoding::BASE64_NOPAD.encode(&hash).into(),
        )]);
        event.insert("hashes".to_owned(), hash.into());
        sign_event("x", &key, &mut event, &rules).unwrap();
        assert_eq!(verify_event(&keys, &event, &rules).unwrap(), Verified::All);
        let id = reference_hash(&event, &rules).unwrap();
        let again = parse(&to_json(&event).unwrap()).unwrap();
        assert_eq!(reference_hash(&again, &rules).unwrap(), id);
        let mut content = event["content"].as_object().unwrap().clone();
        content.insert("age".into(), ruma::Int::from(1).into());
        let changed = CanonicalJsonObject::from_iter(
            event.clone().into_iter().chain([("content".to_owned(), content.clone().into())]),
        );
        assert_eq!(verify_event(&keys, &changed, &rules).unwrap(), Verified::Signatures);
        content.insert("ban".into(), ruma::Int::from(50).into());
        event.insert("content".into(), content.into());
        assert!(verify_event(&keys, &event, &rules).is_err(), "what the signature covers was changed");
        assert!(verify_event(&keys, &changed, &version::rules("6").unwrap()).is_err());
        assert!(reference_hash(&changed, &version::rules("6").unwrap()).is_err());
    }
}
