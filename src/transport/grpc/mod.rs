//! gRPC: the service, health, reflection, gRPC-Web.

mod chat;
mod conversations;
mod deadline;
mod failure;
mod health;
mod operations;
mod streaming_call;

use tonic::{body::Body, service::Routes};
use tonic_health::pb::health_server::HealthServer;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service};

use super::{TransportContext, codec::Codec};
use crate::proto::{DESCRIPTORS, chat_service_server::ChatServiceServer};
use chat::ChatRpc;
use deadline::DeadlineLayer;
pub(super) use failure::refuse;
use health::HealthService;

/// Returns the gRPC services of the gateway. They take requests of content type `application/grpc*`
/// over HTTP/2, and gRPC-Web also over HTTP/1.1.
///
/// # Errors
/// The descriptors for reflection are invalid, which a correct build excludes.
pub fn service<B>(
    context: &TransportContext,
) -> Result<
    impl Service<
        http::Request<B>,
        Response = http::Response<Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + Clone
    + Send
    + use<B>,
    tonic_reflection::server::Error,
>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    let max_frame = Codec::Proto.max_frame(context.gateway.settings().messages.content.max_size);
    let chat =
        ChatServiceServer::new(ChatRpc::new(context.clone())).max_decoding_message_size(max_frame);
    let mut routes =
        Routes::new(chat).add_service(HealthServer::new(HealthService::new(context.clone())));
    if context.settings.reflection {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes =
            routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    let limited = DeadlineLayer::new(context.settings.call_timeout).layer(routes.prepare());
    Ok(GrpcWebLayer::new().layer(limited))
}
