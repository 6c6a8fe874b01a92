//! The port on a Unix socket.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use duologue::proto::{CreateTokenRequest, chat_service_client::ChatServiceClient};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::Child,
};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{process::command, support::soon};

struct Gateway {
    child: Child,
    path: PathBuf,
}

impl Gateway {
    /// Starts a gateway that listens on a path. Returns its log if it ends before.
    async fn start(path: &Path, flags: &[&str]) -> Result<Self, String> {
        let addr = format!("unix:{}", path.display());
        let mut child =
            command(&[&["--addr", &addr, "--store", "memory"], flags].concat()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let listening = soon("the socket", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(&format!("listening on {addr}")) {
                    return true;
                }
                log.push(line);
            }
            false
        });
        if listening.await {
            Ok(Self { child, path: path.to_owned() })
        } else {
            Err(log.join("\n"))
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Creates a session over REST, after these bytes and with these header lines. Returns the
    /// status and the body.
    async fn create(&self, before: &[u8], headers: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(before).await.unwrap();
        let request = format!(
            "POST /token?name=Ada HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn grpc(&self) -> ChatServiceClient<Channel> {
        let path = self.path.clone();
        let connect = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        ChatServiceClient::new(endpoint.connect_with_connector(connect).await.unwrap())
    }

    async fn end(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(terminate(&id).await);
        assert!(soon("the end", self.child.wait()).await.unwrap().success());
    }
}

async fn terminate(id: &str) -> bool {
    let sent = tokio::process::Command::new("kill").args(["-s", "TERM", id]).status();
    sent.await.unwrap().success()
}

#[tokio::test]
async fn every_protocol_is_served_and_all_peers_count_as_one_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.sock");
    let flags = ["--address-sessions-per-minute", "2"];
    let gateway = Gateway::start(&path, &flags).await.unwrap();
    // The header of a peer that is not trusted names nobody.
    let (status, created) = gateway.create(b"", "x-forwarded-for: 192.0.2.1\r\n").await;
    assert_eq!(status, 200, "{created}");
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let token = created["token"].as_str().unwrap();
    let url = format!("ws://localhost/chat?token={token}");
    let (mut socket, _) = client_async(url, gateway.connect().await).await.unwrap();
    socket.send(Message::text("Hello Bot")).await.unwrap();
    let reply = soon("the reply", socket.next()).await.unwrap().unwrap();
    assert_eq!(reply.to_text().unwrap(), "Response: Simulating response from the GPT service");
    let mut client = gateway.grpc().await;
    let request = || CreateTokenRequest { name: "Ada".into(), ..Default::default() };
    client.create_token(request()).await.unwrap();
    let refused = client.create_token(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(gateway.create(b"", "x-forwarded-for: 192.0.2.2\r\n").await.0, 429);
    drop((socket, client));
    gateway.end().await;
    assert!(!path.exists(), "the socket was not removed");
}

#[tokio::test]
async fn trusted_peers_name_their_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.sock");
    let flags = ["--address-sessions-per-minute", "1", "--trusted-proxies", "unix"];
    let gateway = Gateway::start(&path, &flags).await.unwrap();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let header = format!("x-forwarded-for: {client}\r\n");
        assert_eq!(gateway.create(b"", &header).await.0, 200);
        assert_eq!(gateway.create(b"", &header).await.0, 429);
    }
    // Without the header, the peers count as one address.
    assert_eq!(gateway.create(b"", "").await.0, 200);
    assert_eq!(gateway.create(b"", "").await.0, 429);
    let proxy = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x03\x7f\0\0\x01\x10\0\x0d\xac";
    assert_eq!(gateway.create(proxy, "").await.0, 200);
    assert_eq!(gateway.create(proxy, "").await.0, 429);
    gateway.end().await;
}

#[tokio::test]
async fn a_socket_that_a_killed_process_left_is_replaced_and_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.sock");
    let mut killed = Gateway::start(&path, &[]).await.unwrap();
    let log = Gateway::start(&path, &[]).await.err().unwrap();
    assert!(log.contains("cannot listen on unix:") && log.contains("in use"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert_eq!(killed.create(b"", "").await.0, 200, "the first gateway keeps its socket");
    killed.child.kill().await.unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    Gateway::start(&path, &[]).await.unwrap().end().await;

    fs::write(&path, "important").unwrap();
    let log = Gateway::start(&path, &[]).await.err().unwrap();
    assert!(log.contains("exists and is not a socket"), "{log}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "important");
    let long = folder.path().join("x".repeat(200));
    let log = Gateway::start(&long, &[]).await.err().unwrap();
    assert!(log.contains("cannot listen on unix:") && log.lines().count() == 1, "{log}");
}

#[tokio::test]
async fn tls_is_served_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.sock");
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert_file, key.cert.pem()).unwrap();
    fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
    let (cert_file, key_file) = (cert_file.to_str().unwrap(), key_file.to_str().unwrap());
    let gateway = Gateway::start(&path, &["--tls-cert", cert_file, "--tls-key", key_file]).await;
    let gateway = gateway.unwrap();
    // A client without TLS gets an answer that says so.
    let (status, body) = gateway.create(b"", "").await;
    assert_eq!((status, body.as_str()), (400, r#"{"detail":"This port speaks HTTPS"}"#));
    let client = reqwest::Client::builder()
        .unix_socket(path.as_path())
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let answer = soon("the answer", client.get("https://localhost/test").send()).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), r#"{"msg":"API is Online"}"#);
    drop(client);
    gateway.end().await;
}
