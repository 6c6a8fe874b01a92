//! A WebSocket, frame by frame.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::Response},
};

use super::{Address, soon};

/// An open WebSocket.
pub struct Socket {
    pub stream: WebSocketStream<TcpStream>,
    pub protocol: Option<String>,
}

/// Opens `/chat` with these headers; the answer if it is refused.
pub async fn handshake(
    server: &Address,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Response<Option<Vec<u8>>>> {
    let mut request = format!("ws://{}/chat{query}", server.addr).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    match soon("the handshake", client_async(request, tcp)).await {
        Ok((stream, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
            Ok(Socket { stream, protocol })
        }
        Err(Error::Http(response)) => Err(*response),
        Err(error) => panic!("{error}"),
    }
}

impl Socket {
    /// Opens a socket with a subprotocol, without a token. "" selects plain mode.
    pub async fn open(server: &Address, query: &str, protocol: &str) -> Self {
        let headers = [("sec-websocket-protocol", protocol)];
        let headers = if protocol.is_empty() { &headers[..0] } else { &headers[..] };
        handshake(server, query, headers).await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    pub async fn send(&mut self, message: Message) {
        self.stream.send(message).await.unwrap();
    }

    pub async fn text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The next data frame.
    pub async fn next(&mut self) -> Message {
        loop {
            match soon("a frame", self.stream.next()).await {
                Some(Ok(frame @ (Message::Text(_) | Message::Binary(_)))) => return frame,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no data frame but {other:?}"),
            }
        }
    }

    pub async fn next_text(&mut self) -> String {
        self.next().await.into_text().unwrap().as_str().to_owned()
    }

    /// Waits for the close frame. Returns its code.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match soon("the close", self.stream.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("closed without a code: {other:?}"),
            }
        }
    }
}
