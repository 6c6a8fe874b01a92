//! The PROXY protocol, version 2: a header before the first byte of a connection, in which a trusted
//! proxy names its client (HAProxy, "The PROXY protocol", section 2.2).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::AsyncReadExt as _;

use super::socket::{Socket, peek};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length of the part with a fixed size: signature, version and command, family, length.
const FIXED: usize = 16;

/// Most bytes behind the fixed part: the addresses and the extensions.
const MAX_REST: usize = 4096;

/// Reads the header, if the connection begins with one. Returns the address of the client, or `None`
/// without a header, and for a connection that the proxy made for itself.
pub(super) async fn read_header(socket: &mut Socket) -> io::Result<Option<IpAddr>> {
    if !begins_with_signature(socket).await? {
        return Ok(None);
    }
    let mut fixed = [0; FIXED];
    socket.read_exact(&mut fixed).await?;
    let [.., command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(io::Error::other("the PROXY header is too long"));
    }
    let mut rest = vec![0; length];
    socket.read_exact(&mut rest).await?;
    match (command, family >> 4) {
        // LOCAL: a probe of the proxy.
        (0x20, _) => Ok(None),
        (0x21, family) => client(family, &rest),
        _ => Err(io::Error::other("the PROXY header has an unknown version or command")),
    }
}

/// Returns the source address of a family.
fn client(family: u8, addresses: &[u8]) -> io::Result<Option<IpAddr>> {
    let too_short = || io::Error::other("the PROXY header is too short for its addresses");
    match family {
        1 => {
            let source: [u8; 4] = *addresses.first_chunk().ok_or_else(too_short)?;
            if addresses.len() < 12 {
                Err(too_short())
            } else {
                Ok(Some(Ipv4Addr::from(source).into()))
            }
        }
        2 => {
            let source: [u8; 16] = *addresses.first_chunk().ok_or_else(too_short)?;
            let source = IpAddr::from(Ipv6Addr::from(source)).to_canonical();
            if addresses.len() < 36 { Err(too_short()) } else { Ok(Some(source)) }
        }
        // Unspecified, or a Unix socket: there is no address.
        _ => Ok(None),
    }
}

/// Looks at the first bytes without taking them.
async fn begins_with_signature(socket: &Socket) -> io::Result<bool> {
    let mut first = [0; SIGNATURE.len()];
    let mut seen = 0;
    loop {
        let read = peek(socket, &mut first).await?;
        if !SIGNATURE.starts_with(&first[..read]) || read == 0 {
            return Ok(false);
        }
        if read == SIGNATURE.len() {
            return Ok(true);
        }
        // A part of the signature has arrived. `peek` returns at once while it waits for the rest.
        if read == seen {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        seen = read;
    }
}
