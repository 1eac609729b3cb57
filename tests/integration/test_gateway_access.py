"""TLS and tokens end at the gateway."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metarec.client import AsyncClient, ClientSettings
from metarec.errors import ConfigError, UnauthenticatedError, UnavailableError
from services.gateway.access import authorization, credentials
from services.runtime.settings import Settings


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Two tokens, as while one replaces the other."""
    path = tmp_path / "tokens"
    path.write_text("new-token\n\nold-token\n")
    return path


async def test_with_a_certificate_calls_are_encrypted(start_gateway: Any, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    gateway = await start_gateway(tls_cert=cert, tls_key=key)
    secure = ClientSettings(gateway_address=f"localhost:{gateway.port}", gateway_ca=cert)
    async with AsyncClient(secure) as client:
        assert len((await client.recommend("u1")).items) == 3
    async with AsyncClient(replace(secure, gateway_ca=None)) as client:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await client.recommend("u1")


async def test_with_tokens_calls_need_one_of_them(start_gateway: Any, token_file: Path, stages: Any) -> None:
    gateway = await start_gateway(auth_token_file=token_file)
    settings = ClientSettings(gateway_address=f"127.0.0.1:{gateway.port}")
    for token in ("new-token", "old-token"):
        async with AsyncClient(replace(settings, token=token)) as client:
            assert not (await client.recommend("u1")).degraded
    seen = len(stages.recall.seen)
    for token in ("", "wrong", "new-token2", "new-toke"):
        async with AsyncClient(replace(settings, token=token)) as client:
            with pytest.raises(UnauthenticatedError, match="Bearer TOKEN"):
                await client.recommend("u1")
    assert len(stages.recall.seen) == seen
    assert "authorization" not in stages.recall.metadata[0]


async def test_without_a_token_health_answers_and_reflection_does_not(start_gateway: Any, token_file: Path) -> None:
    gateway = await start_gateway(auth_token_file=token_file)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflection.ServerReflectionInfo(iter(requests)).read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer old-token"),)
        answer = await reflection.ServerReflectionInfo(iter(requests), metadata=metadata).read()
        assert "metarec.v1.GatewayService" in {service.name for service in answer.list_services_response.service}


async def test_the_client_takes_token_and_authority_from_the_environment(
    start_gateway: Any, token_file: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    gateway = await start_gateway(auth_token_file=token_file, tls_cert=cert, tls_key=key)
    settings = ClientSettings.from_environment(
        {
            "METAREC_GATEWAY_ADDRESS": f"localhost:{gateway.port}",
            "METAREC_GATEWAY_CA": str(cert),
            "METAREC_AUTH_TOKEN_FILE": str(token_file),
        }
    )
    assert settings.token == "new-token"
    async with AsyncClient(settings) as client:
        assert not (await client.recommend("u1")).degraded


def test_files_that_cannot_be_used_are_named(tmp_path: Path, token_file: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(ConfigError, match="holds no token"):
        authorization(Settings(service="gateway", auth_token_file=empty))
    with pytest.raises(ConfigError, match="METAREC_AUTH_TOKEN_FILE cannot be read"):
        authorization(Settings(service="gateway", auth_token_file=tmp_path / "missing"))
    with pytest.raises(ConfigError, match="METAREC_TLS_KEY cannot be read"):
        credentials(Settings(service="gateway", tls_cert=token_file, tls_key=tmp_path / "missing"))
    with pytest.raises(ConfigError, match="must be a certificate chain and its private key"):
        credentials(Settings(service="gateway", tls_cert=token_file, tls_key=token_file))
    with pytest.raises(ConfigError, match="METAREC_GATEWAY_CA cannot be read"):
        ClientSettings(gateway_ca=tmp_path / "missing").credentials("gateway")
    assert authorization(Settings(service="gateway")) is None
    assert credentials(Settings(service="gateway")) is None
