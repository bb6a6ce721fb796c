//! Owns the compact forms inside blobs: unsigned varints and lists of them.

use super::StoreError;

/// Appends `value` as a little-endian base-128 varint (1 to 10 bytes).
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one varint off the front of `input`.
pub fn take_varint(input: &mut &[u8]) -> Result<u64, StoreError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = input.split_first() else {
            return Err(StoreError::Corrupt("varint cut short"));
        };
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(StoreError::Corrupt("varint too long"))
}

/// A list of numbers in the order given.
pub fn put_list(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        put_varint(&mut out, value as u64);
    }
    out
}

/// What [`put_list`] made.
pub fn take_list(mut input: &[u8]) -> Result<Vec<i64>, StoreError> {
    let mut values = Vec::new();
    while !input.is_empty() {
        values.push(take_varint(&mut input)? as i64);
    }
    Ok(values)
}

/// Pairs sorted by their first number: that one as the difference to the one before, the second as it is.
pub fn put_pairs(pairs: &[(i64, i64)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pairs.len() * 4);
    let mut last = 0;
    for &(key, value) in pairs {
        assert!(key >= last, "pairs are sorted");
        put_varint(&mut out, (key - last) as u64);
        put_varint(&mut out, value as u64);
        last = key;
    }
    out
}

/// What [`put_pairs`] made.
pub fn take_pairs(mut input: &[u8]) -> Result<Vec<(i64, i64)>, StoreError> {
    let mut pairs = Vec::new();
    let mut last = 0_i64;
    while !input.is_empty() {
        let step = take_varint(&mut input)? as i64;
        last = last.checked_add(step).ok_or(StoreError::Corrupt("pair key"))?;
        pairs.push((last, take_varint(&mut input)? as i64));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_and_pairs_come_back(values in prop::collection::vec(any::<i64>(), 0..50),
                                     mut pairs in prop::collection::vec((0..i64::MAX, any::<i64>()), 0..50)) {
            prop_assert_eq!(take_list(&put_list(values.iter().copied())).unwrap(), values);
            pairs.sort_unstable();
            prop_assert_eq!(take_pairs(&put_pairs(&pairs)).unwrap(), pairs);
        }

        #[test]
        fn any_bytes_are_pairs_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = take_pairs(&bytes);
            let _ = take_list(&bytes);
        }
    }
}
