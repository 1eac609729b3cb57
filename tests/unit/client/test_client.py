import inspect
import re
import socket
from collections.abc import Callable

import grpc
import pytest

from metarec.client import AsyncClient, Client, ClientSettings, calls, convert, lists, training_calls
from metarec.client.errors import client_error
from metarec.client.policy import deadlines
from metarec.client.results import Checkpoint, TrainingJob
from metarec.errors import ConfigError, DeadlineExceededError, InvalidInputError, UnavailableError
from metarec.types import FeatureValue, Interaction
from metarec.v1 import training_pb2, types_pb2


def methods(client: type) -> set[str]:
    return {name for name in vars(client) if not name.startswith("_")} - {"close"}


def test_both_clients_have_every_call_with_its_description() -> None:
    functions = {
        name: value
        for module in (calls, training_calls)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert methods(Client) == methods(AsyncClient) == {name for name, value in functions.items() if returns_a_call(value)}
    for name in methods(Client):
        assert getattr(Client, name).__doc__ == getattr(AsyncClient, name).__doc__ == functions[name].__doc__


def returns_a_call(function: Callable[..., object]) -> bool:
    return "Call[" in str(inspect.signature(function).return_annotation)


def test_every_call_has_a_deadline_of_its_own_or_the_policys() -> None:
    assert calls.recommend("u").timeout == deadlines()["metarec.v1.GatewayService/Recommend"] == 5
    assert calls.recommend("u", timeout=0.5).timeout == 0.5
    for wrong in (0, -1, float("nan")):
        with pytest.raises(InvalidInputError) as caught:
            calls.recommend("u", timeout=wrong)
        assert caught.value.field == "timeout"


def test_every_call_has_a_request_id_and_a_write_has_the_same_in_its_message() -> None:
    first, second = calls.recommend("u"), calls.recommend("u")
    assert re.fullmatch(r"[0-9a-f]{32}", first.request_id)
    assert first.request_id != second.request_id
    job = training_calls.create_training_job(request_id="mine")
    assert job.request_id == job.message.request_id == "mine"  # type: ignore[attr-defined]  # the stand-in's request


@pytest.mark.parametrize("value", ["text", 1.5, ("a", "b"), (0.5, 1.0)])
def test_feature_values_survive_the_wire(value: FeatureValue) -> None:
    item = types_pb2.Item()
    convert.put_features(item.features, {"field": value}, "features")
    assert convert.get_features(types_pb2.Item.FromString(item.SerializeToString()).features) == {"field": value}


def test_missing_feature_values_stay_out_and_impossible_ones_are_refused() -> None:
    item = types_pb2.Item()
    convert.put_features(item.features, {"a": None, "b": float("nan"), "c": [], "d": ()}, "features")
    assert not item.features
    for wrong in (True, {"a": 1}, ["a", 1], object()):
        with pytest.raises(InvalidInputError) as caught:
            convert.put_features(item.features, {"x": wrong}, "items[2].features")
        assert caught.value.field == "items[2].features.x"


@pytest.mark.parametrize(
    "send",
    [
        lambda client: client.create_training_job(seed=2**64),
        lambda client: client.recommend("\udcff"),
        lambda client: client.recommend("u", features={"age": 10**400}),
        lambda client: client.record_interactions([Interaction(user_id="u", item_id="i", label=1, timestamp=1e18)]),
    ],
)
def test_values_that_no_message_can_hold_are_wrong_input(send) -> None:
    with Client() as client, pytest.raises(InvalidInputError, match="cannot be sent"):
        send(client)


def test_an_interaction_survives_the_wire() -> None:
    interaction = Interaction(user_id="u", item_id="i", label=4.0, timestamp=891350008.25, scenario="home", event_id="e")
    message = types_pb2.Interaction()
    convert.put_interaction(message, interaction)
    assert convert.get_interaction(types_pb2.Interaction.FromString(message.SerializeToString())) == interaction
    with pytest.raises(InvalidInputError):
        convert.put_interaction(message, Interaction(user_id="u", item_id="i", label=1, timestamp=float("inf")))


def test_jobs_and_checkpoints_are_read_whole() -> None:
    job = training_pb2.TrainingJob(
        name="trainingJobs/7",
        data="d",
        recipe="r",
        num_workers=2,
        seed=3,
        launcher=training_pb2.LAUNCHER_KUBERAY,
        state=training_pb2.TRAINING_JOB_STATE_FAILED,
        checkpoint="c",
        error="why",
        create_time=convert.to_timestamp(1.5),
    )
    expected = TrainingJob(
        id="7",
        data="d",
        recipe="r",
        num_workers=2,
        seed=3,
        launcher="kuberay",
        state="failed",
        checkpoint="c",
        error="why",
        created=1.5,
        ended=None,
    )
    assert convert.get_job(job) == expected
    checkpoint = training_pb2.Checkpoint(name="checkpoints/c-1", recipe="r", live=True, delta=0.5, metrics={"mae": 0.7})
    checkpoint.gate_metrics["users"] = 15
    assert convert.get_checkpoint(checkpoint) == Checkpoint(
        id="c-1",
        recipe="r",
        created=0.0,
        live=True,
        gate_passed=False,
        delta=0.5,
        schema_hash="",
        data_fingerprint="",
        metrics={"mae": 0.7},
        gate_metrics={"users": 15.0},
    )
    assert convert.resource_name("checkpoints", "c-1") == convert.resource_name("checkpoints", "checkpoints/c-1")


def test_every_enum_value_of_the_protos_has_a_name() -> None:
    assert set(lists.SOURCES) == set(types_pb2.CandidateSource.values()) - {0}
    assert set(lists.KINDS) == set(types_pb2.ContributionKind.values()) - {0}
    assert set(lists.RULE_EFFECTS) == set(types_pb2.RuleEffectKind.values()) - {0}
    assert set(convert.STATES) == set(training_pb2.TrainingJobState.values()) - {0}
    assert set(convert.LAUNCHERS.values()) == set(training_pb2.Launcher.values())


def test_settings_come_from_the_environment() -> None:
    assert ClientSettings.from_environment({}) == ClientSettings()
    settings = ClientSettings.from_environment({"METAREC_GATEWAY_ADDRESS": "gateway:1", "METAREC_TRAINING_ADDRESS": "t:2"})
    assert (settings.address("gateway"), settings.address("training")) == ("gateway:1", "t:2")
    with pytest.raises(ConfigError, match="METAREC_GATEWAY_ADDRESS must be HOST:PORT"):
        ClientSettings.from_environment({"METAREC_GATEWAY_ADDRESS": "gateway"})


def test_the_token_goes_to_the_gateway_alone() -> None:
    settings = ClientSettings(token="t")
    assert settings.metadata("gateway") == (("authorization", "Bearer t"),)
    assert settings.metadata("training") == ()


def test_a_service_that_is_not_running_is_named_with_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with Client(ClientSettings(training_address=address)) as client, pytest.raises(UnavailableError) as caught:
            client.rollback_checkpoint()
    assert f"the training service at {address} cannot be reached" in caught.value.message
    assert "'metarec up'" in caught.value.message
    assert "METAREC_TRAINING_ADDRESS" in caught.value.message


def test_a_deadline_that_passed_says_how_long_it_was() -> None:
    class Late(grpc.RpcError):
        """A call whose deadline passed on this side."""

        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "Deadline Exceeded"

        def trailing_metadata(self) -> None:
            return None

    error = client_error(Late(), service="gateway", address="g:1", timeout=0.25)
    assert isinstance(error, DeadlineExceededError)
    assert error.message == "the gateway service at g:1 gave no answer within 0.25 seconds"


def test_a_call_that_comes_while_the_server_stops_can_be_sent_again() -> None:
    class Cancelled(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.CANCELLED

        def details(self) -> str:
            return "CANCELLED"

        def trailing_metadata(self) -> tuple[()]:
            return ()

    error = client_error(Cancelled(), service="gateway", address="g:1", timeout=1.0)
    assert isinstance(error, UnavailableError)
    assert error.message == "the gateway service at g:1 is stopping; retry"
