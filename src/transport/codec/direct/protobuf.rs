//! Protobuf, <https://protobuf.dev/programming-guides/encoding/>.

use bytes::{Buf as _, Bytes};

use super::{Field, FrameWriter};
use crate::session::{MessageId, Timestamp};

/// Wire types.
const VARINT: u8 = 0;
const LEN: u8 = 2;

/// Most bytes of the tag and the length in front of the event: the tag is one byte, the length at
/// most five.
const HEADER: usize = 6;

/// Writes a message.
pub(in crate::transport::codec) struct ProtoWriter {
    bytes: Vec<u8>,
}

impl ProtoWriter {
    fn begin(&mut self, field: Field, wire_type: u8) {
        self.varint(u64::from(field.tag) << 3 | u64::from(wire_type));
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn some_varint(&mut self, field: Field, number: u64) {
        self.begin(field, VARINT);
        self.varint(number);
    }
}

impl FrameWriter for ProtoWriter {
    type Frame = Bytes;

    const ONEOF_IS_LAST: bool = false;

    fn frame(event: Field, size: usize, fields: impl FnOnce(&mut Self)) -> Bytes {
        /// Ids and numbers of the largest frame.
        const ENVELOPE: usize = 256;
        let mut writer = Self { bytes: Vec::with_capacity(ENVELOPE + size) };
        // The length is known at the end. Its place is in front.
        writer.bytes.extend_from_slice(&[0; HEADER]);
        fields(&mut writer);
        let length = (writer.bytes.len() - HEADER) as u64;
        let end = writer.bytes.len();
        writer.begin(event, LEN);
        writer.varint(length);
        let unused = HEADER - (writer.bytes.len() - end);
        writer.bytes.copy_within(end.., unused);
        writer.bytes.truncate(end);
        let mut frame = Bytes::from(writer.bytes);
        frame.advance(unused);
        frame
    }

    fn id(&mut self, field: Field, id: MessageId) {
        self.some_text(field, id.write_to(&mut [0; MessageId::TEXT_LEN]));
    }

    fn text(&mut self, field: Field, text: &str) {
        if !text.is_empty() {
            self.some_text(field, text);
        }
    }

    fn some_text(&mut self, field: Field, text: &str) {
        self.begin(field, LEN);
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, field: Field, number: u32) {
        if number != 0 {
            self.some_number(field, number);
        }
    }

    fn some_number(&mut self, field: Field, number: u32) {
        self.some_varint(field, number.into());
    }

    fn flag(&mut self, field: Field, flag: bool) {
        if flag {
            self.some_varint(field, 1);
        }
    }

    fn choice(&mut self, field: Field, value: u8, _name: &'static str) {
        self.some_varint(field, value.into());
    }

    fn time(&mut self, field: Field, time: Timestamp) {
        const SECONDS: Field = super::field(1, "seconds");
        const NANOS: Field = super::field(2, "nanos");
        let millis = time.as_millis();
        self.message(field, |writer| {
            if millis >= 1000 {
                writer.some_varint(SECONDS, millis / 1000);
            }
            writer.number(NANOS, (millis % 1000) as u32 * 1_000_000);
        });
    }

    fn message(&mut self, field: Field, fields: impl FnOnce(&mut Self)) {
        self.begin(field, LEN);
        let length = self.bytes.len();
        self.bytes.push(0);
        fields(self);
        // Less than 128, which is one byte.
        let size = (self.bytes.len() - length - 1) as u8;
        if let Some(length) = self.bytes.get_mut(length) {
            *length = size;
        }
    }
}
