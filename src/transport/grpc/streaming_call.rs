//! A call that streams responses: `Chat` and `Subscribe`.

use std::task::{Context, Poll};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Code, Status, Streaming};

use super::failure;
use crate::{
    proto::{self, frame::EncodedFrame},
    session::{Error, ErrorKind},
    transport::{
        TransportContext,
        codec::{self, Form},
        stream::{ClientStream, Inbound, InboundSource, Outbound},
    },
};

pub(super) type ResponseStream = BoxStream<'static, Frame>;

/// A frame of a stream, or its end.
type Frame = Result<EncodedFrame, Status>;

/// The requests of a `Chat` call.
pub(super) struct Requests(pub(super) Streaming<proto::ChatRequest>);

impl InboundSource for Requests {
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        self.0.poll_next_unpin(cx).map(|request| match request {
            Some(Ok(request)) => {
                codec::client_request(request).map_or_else(Inbound::Refused, Inbound::Request)
            }
            None => Inbound::HalfClosed,
            Some(Err(status)) => Inbound::Gone(undecodable(&status)),
        })
    }
}

/// Returns the failure that tonic's decoder reports. `None` if the client disconnected.
fn undecodable(status: &Status) -> Option<Error> {
    match status.code() {
        Code::OutOfRange => Some(ErrorKind::FrameTooLarge.into()),
        Code::Internal | Code::Unimplemented => {
            Some(Error::new(ErrorKind::BadFrame, "A request message could not be decoded"))
        }
        _ => None,
    }
}

/// A call that streams responses.
pub(super) struct StreamingCall<R> {
    pub(super) context: TransportContext,
    pub(super) stream: ClientStream,
    pub(super) requests: R,
}

impl<R: InboundSource + Send + 'static> StreamingCall<R> {
    /// Returns the responses. The HTTP/2 connection polls them only while its peer has room: a
    /// reader that stalls delays only itself.
    pub(super) fn responses(self) -> ResponseStream {
        // Boxed, since each item moves it.
        let items = stream::unfold(Some(Box::new(self)), |call| async {
            let mut call = call?;
            let outbound = call.stream.next(&mut call.requests).await;
            let items = call.items(&outbound);
            let is_over = matches!(outbound, Outbound::End(_));
            Some((stream::iter(items.into_iter().flatten()), (!is_over).then_some(call)))
        });
        items.flatten().boxed()
    }

    /// Encodes an item: a response, a status, or both.
    fn items(&self, outbound: &Outbound) -> [Option<Frame>; 2] {
        let limits = self.context.gateway.settings();
        let frame = Form::Proto.encoded(outbound, limits, self.context.settings.heartbeat);
        let frame = frame.map_err(|error| failure::status(&error)).transpose();
        let frame = frame.map(|frame| frame.map(EncodedFrame));
        let status = match outbound {
            // The stream has counted it.
            Outbound::End(Err(error)) => Some(Err(failure::status(error))),
            _ => None,
        };
        [frame, status]
    }
}
