//! HTTPS on the one port: every transport, with a certificate that can be replaced.

use std::{io::Write as _, path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::KeyPair;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{client_async, tungstenite::Message};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{
    process::{Process, command},
    support::{
        Authority, PATIENCE, Setup,
        proto::{self, chat_service_client::ChatServiceClient},
        soon,
    },
};

/// The certificate that the gateway shows.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn start(folder: &Path) -> Process {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    Process::start(&["--tls-cert", cert, "--tls-key", key]).await
}

#[tokio::test]
async fn every_transport_is_open_over_https() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(folder.path());
    let gateway = start(folder.path()).await;
    let port = gateway.port;

    // REST and SSE, as the negotiated HTTP/2 and as HTTP/1.1.
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let client = || reqwest::Client::builder().tls_certs_only([root.clone()]);
    let rest = client().build().unwrap();
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let created = rest.post(url("/token?name=Ada")).send().await.unwrap();
    assert_eq!(created.version(), http::Version::HTTP_2);
    let created: serde_json::Value = created.json().await.unwrap();
    let token = created["token"].as_str().unwrap();
    let http1 = client().http1_only().build().unwrap();
    let mut events = http1.get(url(&format!("/events?token={token}"))).send().await.unwrap();
    assert_eq!(events.version(), http::Version::HTTP_11);
    let opened = soon("an event", events.chunk()).await.unwrap().unwrap();
    assert!(opened.starts_with(b"id:") || opened.starts_with(b"event:"), "{opened:?}");

    // gRPC.
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    let endpoint = Endpoint::from_shared(url("")).unwrap().tls_config(tls).unwrap();
    let mut grpc = ChatServiceClient::new(endpoint.connect().await.unwrap());
    let refreshed = grpc
        .refresh_token(proto::RefreshTokenRequest { token: token.into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(refreshed.into_inner().session.unwrap().name, "Ada");

    // WebSocket.
    let stream = authority.connect(port, &[b"http/1.1"]).await;
    let uri = format!("wss://localhost:{port}/chat?token={token}");
    let (mut socket, _) = client_async(uri, stream).await.unwrap();
    socket.send(Message::text("Hello Bot")).await.unwrap();
    let answer = soon("the answer", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::text("Response: Simulating response from the GPT service"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_sighup_and_a_broken_one_is_not() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let first = authority.issue(folder.path());
    let mut gateway = start(folder.path()).await;
    let mut old = authority.connect(gateway.port, &[]).await;
    assert_eq!(shown(&old), first);

    let reloaded = async |gateway: &mut Process, expected: &str| {
        gateway.signal("HUP").await;
        soon("a line", async {
            while let Some(line) = gateway.lines.next_line().await.unwrap() {
                if line.contains(expected) {
                    return;
                }
            }
            panic!("it ended");
        })
        .await;
    };
    let second = authority.issue(folder.path());
    reloaded(&mut gateway, "the certificate was read again").await;
    assert_eq!(shown(&authority.connect(gateway.port, &[]).await), second);

    // A key that is not the certificate's, as while both are being replaced.
    let key = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(folder.path().join("key.pem"), key).unwrap();
    reloaded(&mut gateway, "the new certificate is refused").await;
    assert_eq!(shown(&authority.connect(gateway.port, &[]).await), second);

    // The first connection has not noticed any of it.
    old.write_all(b"GET /test HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon("the answer", old.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with(r#"{"msg":"API is Online"}"#), "{answer}");
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_to_its_end_holds_nobody_up() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let first = authority.issue(folder.path());
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let one_worker = [("TOKIO_WORKER_THREADS", "1")];
    let mut gateway = Process::start_in(&one_worker, &flags).await;
    let pem = std::fs::read(&cert).unwrap();
    std::fs::remove_file(&cert).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&cert).status().unwrap().success());
    gateway.signal("HUP").await;
    // A pipe is opened once both ends are: the gateway reads.
    let open = |path: std::path::PathBuf| {
        tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(path))
    };
    let mut writer = soon("a reader", open(cert.clone())).await.unwrap().unwrap();
    assert_eq!(shown(&soon("a handshake", authority.connect(gateway.port, &[])).await), first);
    // Signals that come meanwhile become one more reading, after this one.
    gateway.signal("HUP").await;
    gateway.signal("HUP").await;
    writer.write_all(&pem).unwrap();
    drop(writer);
    let line = soon("a line", gateway.lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains("the certificate was read again"), "{line}");
    let _writer = soon("a reader", open(cert)).await.unwrap().unwrap();
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.0, Some(0));
}

#[tokio::test]
async fn without_a_certificate_sighup_ends_nothing() {
    let mut gateway = Process::start(&[]).await;
    gateway.signal("HUP").await;
    let line = soon("a line", gateway.lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains("no certificate"), "{line}");
    assert!(reqwest::get(gateway.address().url("/test")).await.unwrap().status().is_success());
}

#[tokio::test]
async fn plain_http_to_the_tls_port_gets_an_explanation() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(folder.path());
    let gateway = start(folder.path()).await;
    let answer = reqwest::get(gateway.address().url("/test")).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.text().await.unwrap(), r#"{"detail":"This port speaks HTTPS"}"#);
}

#[tokio::test]
async fn who_never_shakes_hands_is_cut_and_holds_no_drain_up() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(folder.path());
    let files = duologue::server::TlsFiles {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
    };
    let mut setup = Setup::default();
    setup.server.tls = Some(files.clone());
    setup.server.head_timeout = Duration::from_millis(300);
    let server = setup.start().await;
    // No byte at all; and the first byte of a handshake, no more.
    for bytes in [&b""[..], &[22]] {
        let mut silent = TcpStream::connect(server.addr).await.unwrap();
        silent.write_all(bytes).await.unwrap();
        let ended = soon("its end", silent.read(&mut [0; 16])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }

    let mut setup = Setup::default();
    setup.server.tls = Some(files);
    setup.server.head_timeout = PATIENCE * 2;
    let mut server = setup.start().await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    silent.write_all(&[22]).await.unwrap();
    // It has been accepted once a later one has been answered.
    drop(authority.connect(server.addr.port(), &[]).await);
    server.begin_shutdown();
    server.ended().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_with_one_line() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    std::fs::write(path("empty.pem"), "").unwrap();
    std::fs::write(path("other.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(path("garbage.pem"), garbage).unwrap();
    let pem = std::fs::read_to_string(&cert).unwrap();
    let secret = std::fs::read_to_string(&key).unwrap();
    std::fs::write(path("half.pem"), &pem[..pem.len() / 2]).unwrap();
    std::fs::write(path("half.key"), &secret[..secret.len() / 2]).unwrap();
    // Without its line breaks, and its last characters.
    let one_line = secret.replace('\n', "");
    std::fs::write(path("line.key"), &one_line).unwrap();
    std::fs::write(path("cut_line.key"), &one_line[..one_line.len() - 2]).unwrap();
    let named = |name: &str| format!("-----BEGIN {name}-----\nAAAA\n-----END {name}-----\n");
    std::fs::write(path("encrypted.key"), named("ENCRYPTED PRIVATE KEY")).unwrap();
    let traditional = named("RSA PRIVATE KEY").replace("AAAA", "Proc-Type: 4,ENCRYPTED\n\nAAAA");
    std::fs::write(path("traditional.key"), traditional).unwrap();
    std::fs::write(path("unusable.key"), named("PRIVATE KEY")).unwrap();
    let words = |pem: &str| pem.lines().nth(1).unwrap()[..20].to_owned();
    let (secret_text, numbers) = (words(&secret), format!("{:?}", words(&secret).as_bytes()));
    let cases = [
        (&path("none.pem"), &key, "none.pem"),
        (&cert, &path("none.pem"), "none.pem"),
        (&path("empty.pem"), &key, "holds no certificate"),
        (&cert, &path("empty.pem"), "no private key"),
        (&path("half.pem"), &key, "half.pem: it is cut off: the end of a section (`-----END CERT"),
        (&cert, &path("half.key"), "half.key: it is cut off"),
        (&cert, &path("line.key"), "line.key: it is cut off: the end of a section is missing"),
        (&cert, &path("cut_line.key"), "`-----BEGIN` is broken"),
        (&cert, &path("encrypted.key"), "encrypted.key: the private key is encrypted"),
        (&cert, &path("traditional.key"), "traditional.key: the private key is encrypted"),
        (&cert, &path("unusable.key"), "unusable.key: the private key is broken, too weak"),
        (&cert, &path("other.pem"), "is not the key of"),
        (&path("garbage.pem"), &key, "garbage.pem"),
        // Exchanged.
        (&key, &cert, "holds no certificate"),
    ];
    for (cert, key, expected) in cases {
        let output = command(&["--tls-cert", cert, "--tls-key", key]).output().await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(expected), "{told}");
        let numbers = numbers.trim_matches(['[', ']']);
        assert!(!told.contains(&secret_text) && !told.contains(numbers), "{told}");
    }
    for half in [["--tls-cert", cert.as_str()], ["--tls-key", key.as_str()]] {
        let output = command(&half).output().await.unwrap();
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8(output.stderr).unwrap().contains("--tls-"), "{half:?}");
    }
}
