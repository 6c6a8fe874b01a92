"""grpcio-health-checking: what a load balancer or Kubernetes asks."""

import queue
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.gateway import Gateway

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICES = pytest.mark.parametrize("service", ["", "duologue.v1.ChatService"])


def stub(channel: grpc.Channel) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(channel)


@SERVICES
def test_a_service_is_serving(gateway: Gateway, service: str) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub(channel).Check(request, timeout=5).status == SERVING


def test_an_unknown_service_is_not_found(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            stub(channel).Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=5)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@SERVICES
def test_a_watch_says_serving_and_ends_with_the_gateway(start, service: str) -> None:
    gateway = start()
    with grpc.insecure_channel(gateway.address) as channel:
        watch = stub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=30)
        statuses: queue.Queue[int | None] = queue.Queue()

        def read() -> None:
            try:
                for response in watch:
                    statuses.put(response.status)
            except grpc.RpcError:
                pass  # however the stream ends, it has ended
            statuses.put(None)

        threading.Thread(target=read, daemon=True).start()
        assert statuses.get(timeout=5) == SERVING
        assert statuses.empty(), "a second status without a change"
        gateway.stop()  # an open watch does not delay the end
        after = list(iter(lambda: statuses.get(timeout=5), None))
        assert SERVING not in after
