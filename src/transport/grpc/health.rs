//! `grpc.health.v1`: each service is SERVING until the gateway begins to shut down.
//!
//! tonic-health's own server is not used: its `Watch` fails for an unknown service, where the
//! specification asks for SERVICE_UNKNOWN on an open stream, and its streams delay a shutdown.

use std::time::Duration;

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::failure;
use crate::transport::{ConnectionContext, TransportContext};

/// Longest time of a `Watch`. The client watches again: a forgotten one does not stay forever.
const LONGEST_WATCH: Duration = Duration::from_secs(600);

/// The name of the service whose health is reported.
const SERVICE: &str = "duologue.v1.ChatService";

#[derive(Debug)]
pub(super) struct HealthService {
    context: TransportContext,
}

impl HealthService {
    pub(super) const fn new(context: TransportContext) -> Self {
        Self { context }
    }

    /// Returns the status of a service. `None` if it is unknown.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let known = matches!(service, "" | SERVICE);
        let serving = if self.context.draining.is_cancelled() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        known.then_some(serving)
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.get_ref().service);
        let status = status.ok_or_else(|| Status::not_found("unknown service"))?;
        Ok(Response::new(answer(status)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = ConnectionContext::caller(request.extensions());
        let slot = self.context.gateway.stream_slot(&caller);
        let slot = slot.map_err(|error| failure::refuse(&error))?;
        let status = self.status(&request.get_ref().service);
        let last = status.map_or(ServingStatus::ServiceUnknown, |_| ServingStatus::NotServing);
        let now = stream::iter([Ok(answer(status.unwrap_or(ServingStatus::ServiceUnknown)))]);
        let draining = self.context.draining.clone();
        let end = stream::once(async move {
            let _slot = slot;
            timeout(LONGEST_WATCH, draining.cancelled_owned()).await.ok()?;
            Some(Ok(answer(last)))
        });
        Ok(Response::new(now.chain(end.filter_map(std::future::ready)).boxed()))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
