//! Canonical proto-JSON.

use std::{fmt::Write as _, time::SystemTime};

use super::{Field, FrameWriter};
use crate::session::{MessageId, Timestamp};

/// Writes one line of JSON.
pub(in crate::transport::codec) struct JsonWriter {
    text: String,
}

impl JsonWriter {
    fn begin(&mut self, field: Field) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(field.name);
        self.text.push_str("\":");
    }

    /// Writes a text that needs no escapes.
    fn quoted(&mut self, text: &str) {
        self.text.push('"');
        self.text.push_str(text);
        self.text.push('"');
    }

    /// Writes the escapes that serde_json writes (RFC 8259, section 7).
    fn escaped(&mut self, text: &str) {
        self.text.push('"');
        let mut rest = text;
        let special = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\');
        while let Some(at) = rest.bytes().position(special) {
            let (before, after) = rest.split_at(at);
            self.text.push_str(before);
            let (escaped, after) = after.split_at(1);
            match escaped {
                "\"" => self.text.push_str("\\\""),
                "\\" => self.text.push_str("\\\\"),
                "\n" => self.text.push_str("\\n"),
                "\r" => self.text.push_str("\\r"),
                "\t" => self.text.push_str("\\t"),
                "\u{8}" => self.text.push_str("\\b"),
                "\u{c}" => self.text.push_str("\\f"),
                control => {
                    self.text.push_str("\\u00");
                    for byte in control.bytes() {
                        self.text.push(if byte < 0x10 { '0' } else { '1' });
                        self.text.push(char::from(b"0123456789abcdef"[usize::from(byte & 0xf)]));
                    }
                }
            }
            rest = after;
        }
        self.text.push_str(rest);
        self.text.push('"');
    }

    fn decimal(&mut self, number: u32) {
        let (mut digits, mut at, mut rest) = ([0; 10], 10, number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.text.extend(digits[at..].iter().map(|digit| char::from(*digit)));
    }
}

impl FrameWriter for JsonWriter {
    type Frame = String;

    const ONEOF_IS_LAST: bool = true;

    fn frame(event: Field, size: usize, fields: impl FnOnce(&mut Self)) -> String {
        /// Names, ids and numbers of the largest frame.
        const ENVELOPE: usize = 512;
        let mut writer = Self { text: String::with_capacity(ENVELOPE + size) };
        writer.text.push('{');
        writer.message(event, fields);
        writer.text.push('}');
        writer.text
    }

    fn id(&mut self, field: Field, id: MessageId) {
        self.begin(field);
        self.quoted(id.write_to(&mut [0; MessageId::TEXT_LEN]));
    }

    fn text(&mut self, field: Field, text: &str) {
        self.some_text(field, text);
    }

    fn some_text(&mut self, field: Field, text: &str) {
        self.begin(field);
        self.escaped(text);
    }

    fn number(&mut self, field: Field, number: u32) {
        self.some_number(field, number);
    }

    fn some_number(&mut self, field: Field, number: u32) {
        self.begin(field);
        self.decimal(number);
    }

    fn flag(&mut self, field: Field, flag: bool) {
        self.begin(field);
        self.text.push_str(if flag { "true" } else { "false" });
    }

    fn choice(&mut self, field: Field, _value: u8, name: &'static str) {
        self.begin(field);
        self.quoted(name);
    }

    fn time(&mut self, field: Field, time: Timestamp) {
        self.begin(field);
        let time = humantime::format_rfc3339_millis(SystemTime::from(time));
        // A String accepts everything.
        let _written = write!(self.text, "\"{time}\"");
    }

    fn message(&mut self, field: Field, fields: impl FnOnce(&mut Self)) {
        self.begin(field);
        self.text.push('{');
        fields(self);
        self.text.push('}');
    }
}
