"""The language-model user, over real HTTP against an OpenAI-compatible server on the loopback, well-behaved and
broken."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.grader import engine
from environments.tau3_airline.llm_user import LONGEST_MESSAGE
from environments.tau3_airline.users import GREETING, HAND_OVER, OUT_OF_SCOPE, STOP, UserFailedError

Answer = Callable[[dict[str, Any]], str]


class Server:
    """Answers chat completions by `answer(request)`; `fault` makes it misbehave from the n-th request on."""

    def __init__(self) -> None:
        self.answer: Answer = lambda request: "I want to cancel my flight." if len(request["messages"]) == 2 else STOP
        self.choice: dict[str, Any] = {}
        """Laid over a well-formed reply's choice."""
        self.fault: str | None = None
        self.faulty_from = 1
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                faulty = outer.fault is not None and len(outer.requests) >= outer.faulty_from
                try:
                    outer.misbehave(self) if faulty else outer.serve(self, request)
                except OSError:
                    return  # the client hung up, as it should on a server that stalls

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def serve(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        message = {"role": "assistant", "content": self.answer(request)}
        head = {"id": "1", "object": "chat.completion", "model": request["model"], "created": 0}
        choices = [{"index": 0, "finish_reason": "stop", "message": message} | self.choice]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps(head | {"choices": choices, "usage": usage}).encode()
        self.send(handler, 200, body, len(body))

    def misbehave(self, handler: BaseHTTPRequestHandler) -> None:
        if self.fault == "500":
            self.send(handler, 500, b'{"error": {"message": "broken"}}')
        elif self.fault == "400":
            self.send(handler, 400, b'{"error": {"message": "no such model"}}')
        elif self.fault == "garbage":
            self.send(handler, 200, b"<html>not JSON")
        elif self.fault == "shape":
            self.send(handler, 200, b'{"choices": []}')
        elif self.fault == "empty":
            self.serve_text(handler, " \n")
        elif self.fault == "half":
            self.send(handler, 200, b'{"choices": [{"mess', promised=10_000)
        elif self.fault == "stall":
            time.sleep(2.0)

    def serve_text(self, handler: BaseHTTPRequestHandler, text: str) -> None:
        self.send(handler, 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, promised: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body) if promised is None else promised))
        handler.end_headers()
        handler.wfile.write(body)
        handler.wfile.flush()
        handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def make(server: Server, **options: Any) -> Tau3AirlineEnv:
    endpoint = {"base_url": server.url, "api_key": "none", "attempts": 2, "backoff_s": 0.01, "timeout_s": 0.5}
    return Tau3AirlineEnv("llm", user_model="person", user_endpoint=endpoint | options.pop("endpoint", {}), **options)


def test_a_dialogue_with_roles_scenario_and_seed(server: Server) -> None:
    env = make(server)
    output, _ = env.reset(seed=5, options={"task_id": "0"})
    assert [message["role"] for message in output] == ["system", "assistant", "user"]
    assert output[2]["content"] == "I want to cancel my flight."
    output, reward, terminated, _, info = env.step("I cannot do that.")
    assert output == ({"role": "user", "content": STOP},)
    assert (reward, terminated, info["user"]) == (1.0, True, "llm")

    opening, second = server.requests
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in second["messages"][1:]] == [
        GREETING, "I want to cancel my flight.", "I cannot do that.",
    ]  # fmt: skip
    system = opening["messages"][0]["content"]
    for part in ("emma_kim_9957", "EHGLP3", "mention that you were told", STOP, HAND_OVER, OUT_OF_SCOPE):
        assert part in system
    assert (opening["model"], opening["temperature"]) == ("person", 0.0)
    assert opening["seed"] == second["seed"]
    # the scenario never reaches the agent
    assert "emma_kim" not in json.dumps(output)


def test_seeds_give_the_user_its_own_chance(server: Server) -> None:
    env = make(server)
    for seed in (1, 2, 1):
        env.reset(seed=seed, options={"task_id": "0"})
    first, second, third = [request["seed"] for request in server.requests]
    assert first == third != second


@pytest.mark.parametrize("token", [STOP, HAND_OVER, OUT_OF_SCOPE])
def test_each_stop_token_ends_the_dialogue(server: Server, token: str) -> None:
    server.answer = lambda request: "Hi." if len(request["messages"]) < 5 else f"Thanks. {token}"
    env = make(server)
    env.reset(options={"task_id": "0"})
    assert env.step("How can I help?")[2] is False
    assert env.step("No.")[1:3] == (1.0, True)


def test_the_agent_cannot_end_the_dialogue(server: Server) -> None:
    server.answer = lambda request: "And?"
    env = make(server, max_turns=3)
    env.reset(options={"task_id": "0"})
    assert [env.step(text)[2:4] for text in (STOP, HAND_OVER, "Bye.")] == [
        (False, False),
        (False, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("500", "status"), ("400", "status"), ("garbage", "garbage"), ("shape", "garbage"), ("empty", "garbage"),
     ("half", "connection"), ("stall", "timeout")],
)  # fmt: skip
def test_a_broken_endpoint_is_a_typed_failure_and_never_the_agents(server: Server, fault: str, kind: str) -> None:
    server.fault, server.faulty_from = fault, 2
    env = make(server)
    env.reset(options={"task_id": "0"})
    output, reward, terminated, truncated, info = env.step("Hello.")
    assert (output, reward, terminated, truncated) == ((), 0.0, False, True)
    assert info["failure"]["kind"] == kind
    assert "person" in info["failure"]["message"]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("Hello?")
    server.fault = None
    env.reset(options={"task_id": "0"})
    assert env.step("Hello.")[1] == 1.0  # the environment recovers with the endpoint


NO_MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "filtered": ({"finish_reason": "content_filter"}, "filter"),
    "refused": ({"message": {"content": None, "refusal": "I cannot play this."}}, "refusal"),
}


@pytest.mark.parametrize("case", NO_MESSAGES)
def test_what_is_no_customers_message_is_the_machines_fault(server: Server, case: str) -> None:
    server.choice, kind = NO_MESSAGES[case]
    with pytest.raises(UserFailedError) as caught:
        make(server).reset(seed=0, options={"task_id": "8"})
    assert caught.value.kind == kind


def test_a_message_that_the_limit_cut_is_counted(server: Server) -> None:
    server.choice = {"finish_reason": "length"}
    env = make(server)
    env.reset(seed=0, options={"task_id": "8"})
    _, _, terminated, _, info = env.step("What is your user id?")  # answered by the stop token
    assert (terminated, info["metrics"]["user_truncated"]) == (True, 2.0)  # the opening was one, too


def test_a_failure_at_the_opening_is_raised_typed(server: Server) -> None:
    server.fault = "500"
    with pytest.raises(UserFailedError, match="person") as caught:
        make(server).reset(options={"task_id": "0"})
    assert caught.value.kind == "status"


def test_nobody_listening() -> None:
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "api_key": "none", "attempts": 1, "timeout_s": 0.5}
    env = Tau3AirlineEnv("llm", user_model="person", user_endpoint=endpoint)
    with pytest.raises(UserFailedError) as caught:
        env.reset(options={"task_id": "0"})
    assert caught.value.kind == "connection"


def test_a_replay_from_the_cache_needs_no_server(server: Server, tmp_path: Path) -> None:
    env = make(server, endpoint={"cache": str(tmp_path)})

    def play() -> list[Any]:
        return [env.reset(seed=7, options={"task_id": "2"})[0][2], env.step("Done.")]

    first, asked = play(), len(server.requests)
    server.fault = "500"
    assert play() == first
    assert len(server.requests) == asked == 2


@pytest.mark.parametrize("message", ["x" * 100_000, "\ud800 and more", "\x00"])
def test_no_message_of_the_agents_can_break_the_user(server: Server, message: str) -> None:
    env = make(server)
    env.reset(options={"task_id": "0"})
    assert "failure" not in env.step(message)[4]
    heard = server.requests[-1]["messages"][-1]["content"]
    assert len(heard) <= LONGEST_MESSAGE


def test_sixteen_dialogues_at_once_with_a_failure_among_them(server: Server) -> None:
    # the user of task 3 says nothing, so that episode fails; the others are graded as alone
    def answer(request: dict[str, Any]) -> str:
        if "anya_garcia_5901" in request["messages"][0]["content"] and len(request["messages"]) > 2:
            return ""
        return "Hi." if len(request["messages"]) == 2 else STOP

    server.answer = answer
    ids = [str(number) for number in range(16)]
    failing = next(
        task_id for task_id in ids if "anya_garcia_5901" in json.dumps(engine().data.tasks[task_id]["user_scenario"])
    )

    def play(task_id: str) -> tuple[float, bool]:
        env = make(server, endpoint={"timeout_s": 20.0})
        env.reset(options={"task_id": task_id})
        _, reward, _, _, info = env.step("Hello.")
        return reward, "failure" in info

    results: dict[str, tuple[float, bool]] = {}
    threads = [
        threading.Thread(target=lambda task_id=task_id: results.update({task_id: play(task_id)})) for task_id in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    env = Tau3AirlineEnv()
    for task_id in ids:
        expected = (0.0, True) if task_id == failing else (float(env.floor(task_id)), False)
        assert results[task_id] == expected, task_id
