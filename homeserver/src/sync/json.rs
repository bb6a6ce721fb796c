//! A response as it is written: JSON put together from bytes that are JSON already.

/// Writes objects and arrays; commas by itself.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes `{…}` with what `inside` writes.
    pub(super) fn object(&mut self, inside: impl FnOnce(&mut Self)) {
        self.bytes.push(b'{');
        inside(self);
        self.close(b'}');
    }

    /// Writes `[…]` with what `inside` writes.
    pub(super) fn array(&mut self, inside: impl FnOnce(&mut Self)) {
        self.bytes.push(b'[');
        inside(self);
        self.close(b']');
    }

    /// Begins a member of an object; its value has to follow.
    pub(super) fn key(&mut self, key: &str) -> &mut Self {
        self.string(key);
        self.bytes.pop();
        self.bytes.push(b':');
        self
    }

    /// Writes a string.
    pub(super) fn string(&mut self, text: &str) {
        serde_json::to_writer(&mut self.bytes, text).expect("a string is written to memory");
        self.bytes.push(b',');
    }

    /// Writes a number.
    pub(super) fn number(&mut self, number: i64) {
        self.bytes.extend_from_slice(number.to_string().as_bytes());
        self.bytes.push(b',');
    }

    /// Writes `true` or `false`.
    pub(super) fn bool(&mut self, value: bool) {
        self.bytes.extend_from_slice(if value { b"true," } else { b"false," });
    }

    /// Writes what is JSON already.
    pub(super) fn raw(&mut self, json: &[u8]) {
        self.bytes.extend_from_slice(json);
        self.bytes.push(b',');
    }

    /// Members that were written by another writer, each with its comma, as [`Writer::into_members`] gives them.
    pub(super) fn members(&mut self, members: &[u8]) {
        self.bytes.extend_from_slice(members);
    }

    /// `{"events": […]}` of what is JSON already.
    pub(super) fn events<T: AsRef<[u8]>>(&mut self, events: impl IntoIterator<Item = T>) {
        self.object(|object| {
            object.key("events").array(|array| {
                for event in events {
                    array.raw(event.as_ref());
                }
            });
        });
    }

    /// What was written as members for [`Writer::members`].
    pub(super) fn into_members(self) -> Vec<u8> {
        self.bytes
    }

    /// Opens the object that was written last again, for more members; [`Writer::close_object`] has to follow.
    pub(super) fn reopen(&mut self) {
        let end = self.bytes.len() - 2;
        debug_assert_eq!(&self.bytes[end..], b"},", "an object was written last");
        self.bytes.truncate(end);
        if self.bytes.last() != Some(&b'{') {
            self.bytes.push(b',');
        }
    }

    /// Ends an object that was opened again.
    pub(super) fn close_object(&mut self) {
        self.close(b'}');
    }

    fn close(&mut self, bracket: u8) {
        if self.bytes.last() == Some(&b',') {
            self.bytes.pop();
        }
        self.bytes.push(bracket);
        self.bytes.push(b',');
    }

    /// Ends the outermost value.
    pub(super) fn finish(&mut self) {
        if self.bytes.last() == Some(&b',') {
            self.bytes.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_json() {
        let mut part = Writer::default();
        part.key("x").number(-3);
        let part = part.into_members();
        let mut writer = Writer::default();
        writer.object(|object| {
            object.key("a\"b").string("c\nd");
            object.key("e").object(|_| {});
            object.key("f").array(|array| {
                array.raw(b"{\"g\":1}");
                array.bool(true);
            });
            object.key("h").events([b"{}"]);
            object.members(&part);
        });
        writer.finish();
        let value: serde_json::Value = serde_json::from_slice(&writer.into_bytes()).unwrap();
        let expected =
            json!({"a\"b": "c\nd", "e": {}, "f": [{"g": 1}, true], "h": {"events": [{}]}, "x": -3});
        assert_eq!(value, expected);
    }
}
