//! The log's rules on chosen cases, and its fork rule and readers on random ones.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use router::SecretKey;

use super::{
    entry::{Entry, EntryError, Fields, NodeItem, RotKey, Signers, Tagged, b64, canonical, key_hash},
    identity::PROOF_LEN_MAX,
    *,
};

fn secret(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn signing(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn words() -> RecoveryWords {
    let text =
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    RecoveryWords::parse(text).unwrap()
}

fn item(n: u8) -> NodeItem {
    NodeItem {
        id: format!("n{n}"),
        sign: Tagged(signing(100 + n).verifying_key().to_bytes()),
        net: Tagged(*secret(n).id().as_bytes()),
        seal: Tagged([n; 32]),
        role: "full".to_owned(),
        caps: vec!["sign".to_owned()],
        since: 1,
        prio: u64::from(n),
    }
}

/// Rank-1 and rank-2 keys by number.
fn rot(rank: u8) -> SigningKey {
    signing(200 + rank)
}

fn public(key: &SigningKey) -> entry::SignPub {
    Tagged(key.verifying_key().to_bytes())
}

fn inception() -> Entry {
    let fields = Fields {
        v: 1,
        n: 0,
        prev: None,
        hlc: 1,
        zone: Some("mesh.alt".to_owned()),
        domain: None,
        rot: vec![
            RotKey { key: words().public(0), rank: 0 },
            RotKey { key: public(&rot(1)), rank: 1 },
            RotKey { key: public(&rot(2)), rank: 2 },
        ],
        next0: key_hash(&words().public(1)),
        nodes: vec![item(1)],
    };
    let (net, sign) = (secret(1), signing(101));
    let signers = Signers { rot: &words().key(0), nodes: &[("n1", &net, &sign)], before: None };
    Entry::create(fields, None, &signers).unwrap()
}

/// The next entry after a log, made by `change` and signed by `key`.
fn next(log: &Log, key: &SigningKey, change: impl FnOnce(&mut Fields)) -> Entry {
    let mut fields = log.last().fields().clone();
    fields.n += 1;
    fields.prev = Some(b64(&log.last().hash()));
    fields.zone = None;
    fields.hlc += 1;
    change(&mut fields);
    let new: Vec<u8> =
        (1..50).filter(|n| fields.nodes.iter().any(|item| item.id == format!("n{n}"))).collect();
    let keys: Vec<_> = new.iter().map(|n| (format!("n{n}"), secret(*n), signing(100 + n))).collect();
    let nodes: Vec<_> = keys.iter().map(|(id, net, sign)| (id.as_str(), net, sign)).collect();
    let signers = Signers { rot: key, nodes: &nodes, before: Some(log.last()) };
    Entry::create(fields, Some(log.acct()), &signers).unwrap()
}

fn extended(log: &Log, key: &SigningKey, change: impl FnOnce(&mut Fields)) -> Result<Log, LogError> {
    let mut log = log.clone();
    log.push(next(&log, key, change))?;
    Ok(log)
}

#[test]
fn inception_gives_the_name_and_fits_a_record() {
    let entry = inception();
    let name = entry.server_name().unwrap();
    assert_eq!(name.as_str(), format!("k{}.mesh.alt", entry.acct()));
    let proof = entry.to_proof();
    assert!(proof.len() <= PROOF_LEN_MAX, "{}", proof.len());
    assert_eq!(Entry::from_proof(&proof).unwrap(), entry);
    assert_eq!(Entry::from_json(canonical(entry.json()).as_bytes()).unwrap(), entry);
}

#[test]
fn another_name_for_the_same_account_is_refused() {
    let mut json = inception().json().clone();
    let name = format!("k{}.evil.org", inception().acct());
    json.insert("server_name".to_owned(), name.into());
    assert_eq!(Entry::from_object(json).unwrap_err(), EntryError::Name);
    let mut json = inception().json().clone();
    json.insert("zone".to_owned(), "evil.org".into());
    assert_eq!(Entry::from_object(json).unwrap_err(), EntryError::Account);
}

#[test]
fn nobody_lists_anothers_node() {
    let mut fields = inception().fields().clone();
    fields.nodes.push(item(2));
    let (net, sign) = (secret(1), signing(101));
    let signers = Signers { rot: &words().key(0), nodes: &[("n1", &net, &sign)], before: None };
    assert_eq!(Entry::create(fields.clone(), None, &signers).unwrap_err(), EntryError::NodeSignature);
    // Nor with the right event key but somebody else's overlay key.
    let (wrong, sign2) = (secret(3), signing(102));
    let nodes = [("n1", &net, &sign), ("n2", &wrong, &sign2)];
    let signers = Signers { rot: &words().key(0), nodes: &nodes, before: None };
    assert_eq!(Entry::create(fields, None, &signers).unwrap_err(), EntryError::NodeSignature);
}

#[test]
fn ranks_are_respected() {
    let log = Log::new(inception()).unwrap();
    // A laptop adds a node.
    let log = extended(&log, &rot(2), |fields| fields.nodes.push(item(2))).unwrap();
    assert_eq!(log_keys(&log).len(), 2);
    // It cannot throw out the phone, nor touch recovery.
    let phone = extended(&log, &rot(2), |fields| fields.rot.retain(|rot| rot.rank != 1));
    assert_eq!(phone.unwrap_err(), LogError::Rank);
    let recovery = extended(&log, &rot(2), |fields| fields.next0 = key_hash(&public(&signing(9))));
    assert_eq!(recovery.unwrap_err(), LogError::Rank);
    // The phone can throw out the laptop.
    let log = extended(&log, &rot(1), |fields| fields.rot.retain(|rot| rot.rank != 2)).unwrap();
    assert_eq!(extended(&log, &rot(2), |_| ()).unwrap_err(), LogError::Signer);
}

#[test]
fn recovery_rotates_with_the_words_alone_and_a_thief_of_one_key_does_not() {
    let log = Log::new(inception()).unwrap();
    let words = words();
    let thief = extended(&log, &words.key(0), |fields| {
        fields.rot[0].key = public(&signing(9));
        fields.next0 = key_hash(&public(&signing(10)));
    });
    assert_eq!(thief.unwrap_err(), LogError::Rotation);
    let kept = extended(&log, &words.key(0), |fields| fields.rot[0].key = words.public(1));
    assert_eq!(kept.unwrap_err(), LogError::Rotation, "a new promise is needed");
    let log = extended(&log, &words.key(0), |fields| {
        fields.rot[0].key = words.public(1);
        fields.next0 = key_hash(&words.public(2));
    });
    assert_eq!(extended(&log.unwrap(), &words.key(0), |_| ()).unwrap_err(), LogError::Signer);
}

#[test]
fn recovery_undoes_a_thief_with_a_laptop_key() {
    let start = Log::new(inception()).unwrap();
    let mut thief = start.clone();
    for n in 2..10 {
        thief = extended(&thief, &rot(2), |fields| fields.nodes.push(item(n))).unwrap();
    }
    let owner = extended(&start, &words().key(0), |fields| fields.rot.retain(|rot| rot.rank == 0)).unwrap();
    assert!(owner.compare(&thief).is_gt());
    assert!(thief.compare(&owner).is_lt());
    assert!(thief.compare(&start).is_gt());
}

#[test]
fn identity_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = secret(1);
    let first = Identity::open_or_create(dir.path(), None, &node).unwrap();
    let name = first.server_name().to_owned();
    assert!(name.as_str().ends_with(".mesh.alt"));
    let again = Identity::open_or_create(dir.path(), None, &node).unwrap();
    assert_eq!(again.server_name(), name);
    assert_eq!(again.key_id(), first.key_id());
    assert!(first.key_id().as_str().starts_with("ed25519:n1_"));
    assert_eq!(Identity::read_server_name(dir.path()).unwrap(), name);
    let same = NameChoice::Zone("mesh.alt".to_owned());
    Identity::open_or_create(dir.path(), Some(same), &node).unwrap();
    for other in [
        NameChoice::Zone("other.alt".to_owned()),
        NameChoice::ServerName(ruma::owned_server_name!("example.org")),
    ] {
        let error = Identity::open_or_create(dir.path(), Some(other), &node).unwrap_err();
        assert!(error.to_string().contains("chosen once"), "{error}");
    }
    let error = Identity::open_or_create(dir.path(), None, &secret(2)).unwrap_err();
    assert!(matches!(error, IdentityError::OtherNode { .. }));
    use std::os::unix::fs::PermissionsExt as _;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    let words = first.recovery_words().unwrap();
    let words = RecoveryWords::parse(&words).unwrap();
    assert_eq!(first.inception().signer(), words.public(0));
    first.forget_recovery_words().unwrap();
    assert!(matches!(again.recovery_words(), Err(IdentityError::WordsForgotten)));
}

#[test]
fn own_domain() {
    let dir = tempfile::tempdir().unwrap();
    let domain = NameChoice::ServerName(ruma::owned_server_name!("example.org"));
    let identity = Identity::open_or_create(dir.path(), Some(domain), &secret(1)).unwrap();
    assert_eq!(identity.server_name(), "example.org");
    let proof = Entry::from_proof(&identity.inception().to_proof()).unwrap();
    assert_eq!(proof.server_name().unwrap(), "example.org");
    let dir = tempfile::tempdir().unwrap();
    for bad in ["foo.alt", "Example.org"] {
        let choice = NameChoice::ServerName(ruma::ServerName::parse(bad).unwrap());
        assert!(Identity::open_or_create(dir.path(), Some(choice), &secret(1)).is_err(), "{bad}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing changed");
}

#[test]
fn longest_zone_still_fits_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let zone = format!("{}.{}.alt", "a".repeat(48), "b".repeat(47));
    assert_eq!(zone.len(), name::ZONE_LEN_MAX);
    let identity = Identity::open_or_create(dir.path(), Some(NameChoice::Zone(zone)), &secret(1)).unwrap();
    let record = identity.account_record(1);
    assert!(verify_record(&record));
    assert!(record.proof.len() <= PROOF_LEN_MAX, "{}", record.proof.len());
}

#[test]
fn records_prove_their_own_account_only() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::open_or_create(dir.path(), None, &secret(1)).unwrap();
    let record = identity.account_record(7);
    assert!(verify_record(&record));
    let mut other = record.clone();
    other.acct[0] ^= 1;
    assert!(!verify_record(&other));
    let mut other = record.clone();
    other.node = secret(2).id();
    assert!(!verify_record(&other));
    for at in 0..record.proof.len() {
        let mut proof = record.proof.to_vec();
        proof[at] ^= 1;
        let other = router::AccountRecord { proof: proof.into(), ..record.clone() };
        assert!(!verify_record(&other), "byte {at}");
    }
}

#[test]
fn the_same_entry_in_two_hands_counts_by_its_hand() {
    let start = Log::new(inception()).unwrap();
    let by = |key: &SigningKey, hlc: u64| extended(&start, key, |fields| fields.hlc += hlc).unwrap();
    let (recovery, laptop, phone) = (by(&words().key(0), 0), by(&rot(2), 0), by(&rot(1), 1));
    assert_eq!(recovery.last().hash(), laptop.last().hash());
    assert!(recovery.compare(&phone).is_gt());
    assert!(phone.compare(&laptop).is_gt());
    assert!(recovery.compare(&laptop).is_gt());
}

/// A tree of branches: each step extends an earlier branch, signed by a key of some rank.
fn branches(steps: &[(usize, u8, u8)]) -> Vec<Log> {
    let mut all = vec![Log::new(inception()).unwrap()];
    for (from, rank, salt) in steps {
        let from = all[from % all.len()].clone();
        let key = match rank % 3 {
            0 => words().key(0),
            rank => rot(rank),
        };
        if let Ok(log) = extended(&from, &key, |fields| fields.hlc += u64::from(*salt)) {
            all.push(log);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn fork_rule_is_a_total_order(
        steps in prop::collection::vec((0usize..6, 0u8..3, 0u8..4), 1..8),
        swap in any::<u64>(),
    ) {
        let all = branches(&steps);
        let best = |logs: &[Log]| {
            let mut logs = logs.iter();
            let mut best = logs.next().unwrap().clone();
            for log in logs {
                if log.compare(&best).is_gt() {
                    best = log.clone();
                }
            }
            best.last().hash()
        };
        let winner = best(&all);
        let mut shuffled = all.clone();
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, (swap.rotate_left(at as u32) as usize) % (at + 1));
        }
        prop_assert_eq!(best(&shuffled), winner);
        for a in &all {
            for b in &all {
                prop_assert_eq!(a.compare(b), b.compare(a).reverse());
            }
        }
    }

    #[test]
    fn any_bytes_are_an_entry_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Entry::from_json(&bytes);
        let _ = Entry::from_proof(&bytes);
    }

    #[test]
    fn a_bent_entry_is_an_error(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let entry = inception();
        let mut text = canonical(entry.json()).into_bytes();
        let at = at.index(text.len());
        let before = text[at];
        text[at] = byte;
        if byte != before {
            prop_assert!(Entry::from_json(&text).is_err());
        }
    }
}
