//! WebSocket frames (RFC 6455, section 5): the client's side, and as much of a server's as
//! an echo takes.

use std::ops::Range;

use crate::Result;

/// A text frame's opcode; 0 continues a message.
pub(crate) const CONTINUATION: u8 = 0x0;
/// A text message.
pub(crate) const TEXT: u8 = 0x1;
/// A binary message.
pub(crate) const BINARY: u8 = 0x2;
/// The end of the connection, with its reason.
pub(crate) const CLOSE: u8 = 0x8;
/// Asks for a pong.
pub(crate) const PING: u8 = 0x9;
/// Answers a ping.
pub(crate) const PONG: u8 = 0xA;

/// Marks the last frame of a message.
const FIN: u8 = 0x80;
/// Marks a masked payload.
const MASKED: u8 = 0x80;
/// A browser takes another one for every frame; to a server they are all the same work.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame in a buffer.
pub(crate) struct Frame {
    /// The opcode.
    pub(crate) opcode: u8,
    /// Range of the payload.
    pub(crate) payload: Range<usize>,
}

/// Appends a masked frame. `last`: the frame ends its message.
pub(crate) fn write(out: &mut Vec<u8>, opcode: u8, last: bool, payload: &[u8]) -> Result<()> {
    out.push(opcode | if last { FIN } else { 0 });
    match payload.len() {
        length @ 0..126 => out.push(MASKED | u8::try_from(length)?),
        length => {
            out.push(MASKED | 126);
            out.extend(u16::try_from(length)?.to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    Ok(())
}

/// The frame at the start of `bytes`, if all of it is there.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Frame>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (length, header) = match (second, rest) {
        (0..126, _) => (usize::from(*second), 2),
        (126, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
        (126, _) => return Ok(None),
        _ => return Err("a frame of 64 KiB or more, or masked".into()),
    };
    if first & FIN == 0 {
        return Err("a reply in fragments".into());
    }
    let payload = header..header + length;
    Ok((bytes.len() >= payload.end).then_some(Frame { opcode: first & !FIN, payload }))
}

/// Of a client's short frame at the start of `bytes`, if all of it is there: whether it ends
/// its message, and its length.
pub(crate) fn measure_masked(bytes: &[u8]) -> Option<(bool, usize)> {
    let [first, second, ..] = bytes else {
        return None;
    };
    let length = 2 + MASK.len() + usize::from(second & !MASKED);
    (bytes.len() >= length).then_some((first & FIN != 0, length))
}

/// What stands before the text of a server's short message.
pub(crate) fn reply_head(length: usize) -> Result<[u8; 2]> {
    Ok([TEXT | FIN, u8::try_from(length)?])
}
