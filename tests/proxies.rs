//! The address of a client behind proxies, and the origins of web pages.

use std::net::Ipv4Addr;

use duologue::{
    server::ForwardedHeader,
    session::{CallerLimits, Limits, Settings},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Address, Rest, Running, Setup, soon};

/// A gateway on which each address may create two sessions, with these networks of proxies.
async fn gateway(trusted: &str, header: ForwardedHeader) -> Running {
    let address = Limits { sessions_per_minute: 2, connections: 4, ..Limits::default() };
    let limits = CallerLimits { address, ..CallerLimits::none() };
    let session = Settings { limits, ..Settings::default() };
    let mut setup = Setup { session, ..Setup::default() };
    setup.server.trusted_proxies = trusted.parse().unwrap();
    setup.server.forwarded_header = header;
    setup.start().await
}

async fn create_as(server: &Address, name: &str, value: &str) -> u16 {
    let request = Rest::request(server, "POST", "/token?name=Ada");
    Rest::send(request.header(name, value)).await.status
}

#[tokio::test]
async fn a_trusted_proxy_names_its_clients_and_nobody_else_does() {
    let server = gateway("127.0.0.0/8", ForwardedHeader::XForwardedFor).await;
    for client in ["192.0.2.1", "192.0.2.2", "6.6.6.6, 192.0.2.3"] {
        for expected in [200, 200, 429] {
            assert_eq!(create_as(&server, "x-forwarded-for", client).await, expected, "{client}");
        }
    }
    // What the client itself has put in front changes nothing.
    assert_eq!(create_as(&server, "x-forwarded-for", "7.7.7.7, 192.0.2.3").await, 429);
    // The other header may come from the client.
    assert_eq!(create_as(&server, "forwarded", "for=192.0.2.9").await, 200);
    assert_eq!(create_as(&server, "forwarded", "for=192.0.2.10").await, 200);
    assert_eq!(create_as(&server, "forwarded", "for=192.0.2.11").await, 429, "one account");
    let untrusted = gateway("10.0.0.0/8", ForwardedHeader::XForwardedFor).await;
    let mut statuses = Vec::new();
    for number in 0..3 {
        let client = format!("192.0.2.{number}");
        statuses.push(create_as(&untrusted, "x-forwarded-for", &client).await);
    }
    assert_eq!(statuses, [200, 200, 429]);
    let forwarded = gateway("127.0.0.1", ForwardedHeader::Forwarded).await;
    for expected in [200, 200, 429] {
        assert_eq!(create_as(&forwarded, "forwarded", "for=\"[2001:db8::1]:80\"").await, expected);
    }
    assert_eq!(create_as(&forwarded, "forwarded", "for=\"[2001:db8:0:1::1]\"").await, 200);
}

/// Writes a PROXY header of version 2 for an IPv4 client (section 2.2).
fn proxy_header(client: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client.octets());
    header.extend([127, 0, 0, 1, 0x10, 0x00, 0x0d, 0xac]);
    header
}

/// Sends these bytes, then a request for a session. Returns the status.
async fn create_after(server: &Address, header: &[&[u8]]) -> Option<u16> {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for piece in header {
        stream.write_all(piece).await.ok()?;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let request = b"POST /token?name=Ada HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    soon("the answer", stream.read_to_end(&mut answer)).await.ok()?;
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn a_trusted_proxy_names_its_client_by_the_proxy_protocol() {
    let server = gateway("127.0.0.1", ForwardedHeader::None).await;
    let one = proxy_header(Ipv4Addr::new(192, 0, 2, 1));
    let two = proxy_header(Ipv4Addr::new(192, 0, 2, 2));
    for header in [&one, &two] {
        for expected in [200, 200, 429] {
            assert_eq!(create_after(&server, &[header]).await, Some(expected));
        }
    }
    // In pieces, as TCP may deliver it.
    let three = proxy_header(Ipv4Addr::new(192, 0, 2, 3));
    let pieces: Vec<_> = three.chunks(5).collect();
    assert_eq!(create_after(&server, &pieces).await, Some(200));
    // A proxy's own probe, and a connection without a header.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(create_after(&server, &[local]).await, Some(200));
    assert_eq!(create_after(&server, &[]).await, Some(200));
    for wrong in [
        &b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
    ] {
        assert_eq!(create_after(&server, &[wrong]).await, None, "{wrong:?}");
    }
    // From a network that is not trusted it is no request.
    let untrusted = gateway("10.0.0.0/8", ForwardedHeader::None).await;
    assert_ne!(create_after(&untrusted, &[&one]).await, Some(200));
}

#[tokio::test]
async fn connections_of_a_proxy_count_for_its_clients() {
    let server = gateway("127.0.0.1", ForwardedHeader::XForwardedFor).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(stream);
    }
    let header = proxy_header(Ipv4Addr::new(192, 0, 2, 1));
    let mut of_client = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&header).await.unwrap();
        stream.write_all(b"GET /test HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        of_client.push(stream);
    }
    assert_eq!(create_after(&server, &[&header]).await, Some(429));
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let mut setup = Setup::default();
    setup.transport.hosts = "chat.example".parse().unwrap();
    setup.transport.origins = "https://app.example".parse().unwrap();
    let server = setup.start().await;
    let call = async |method: &str, path: &str, host: &str, origin: &str| {
        let request = Rest::request(&server, method, path);
        Rest::send(request.header("host", host).header("origin", origin)).await
    };
    let started = server.gateway.active_sessions();
    for (host, origin, status) in [
        ("chat.example", "https://app.example", 200),
        ("chat.example", "https://chat.example", 200),
        ("127.0.0.1", "http://127.0.0.1", 200),
        ("chat.example", "https://evil.example", 403),
        // DNS rebinding: the page's own name resolves to the gateway.
        ("evil.example", "http://evil.example", 403),
        ("chat.example", "null", 403),
    ] {
        let answer = call("POST", "/token?name=Ada", host, origin).await;
        assert_eq!(answer.status, status, "{host} {origin}");
        if status == 403 {
            assert_eq!(answer.body, r#"{"detail":"Origin not allowed"}"#);
            assert!(answer.header("access-control-allow-origin").is_empty());
        }
    }
    assert_eq!(server.gateway.active_sessions(), started);
    for (method, path) in [
        ("POST", "/refresh_token?token=x"),
        ("DELETE", "/token?token=x"),
        ("POST", "/messages?token=x&text=Hi"),
        ("POST", "/regenerate?token=x"),
        ("POST", "/stop?token=x"),
        ("PATCH", "/sessions/x"),
        ("DELETE", "/sessions/x"),
        ("POST", "/sessions/x/tokens"),
        ("DELETE", "/sessions/x/tokens/y"),
        ("POST", "/unknown"),
    ] {
        let refused = call(method, path, "chat.example", "https://evil.example").await;
        assert_eq!(refused.status, 403, "{method} {path}");
    }
    let web = Rest::request(&server, "POST", "/duologue.v1.ChatService/CreateToken")
        .header("content-type", "application/grpc-web+proto")
        .header("origin", "https://evil.example")
        .body(vec![0; 5]);
    let refused = Rest::send(web).await;
    assert_eq!((refused.header("grpc-status"), refused.body.as_str()), ("7", ""));
    // Without an origin it is no page.
    assert_eq!(Rest::call(&server, "POST", "/token?name=Ada").await.status, 200);
}
