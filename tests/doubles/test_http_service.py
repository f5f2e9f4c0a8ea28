import http.client
import threading

import pytest

from tests.doubles.http_service import HTTPAnswer, HTTPRequest, HTTPService, forward_to


def _echo(request: HTTPRequest) -> HTTPAnswer:
    return HTTPAnswer(200, request.method.encode() + b" " + request.body, {"X-Path": request.path})


def _ask(connection: http.client.HTTPConnection, path: str = "/a", body: bytes = b"x") -> tuple[int, bytes]:
    connection.request("POST", path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _connect(service: HTTPService) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=30)


def test_it_answers_and_counts_what_has_a_name() -> None:
    with HTTPService(_echo, lambda request: None if request.path == "/health" else request.path[1:]) as service:
        connection = _connect(service)
        assert _ask(connection) == _ask(connection) == (200, b"POST x")
        assert _ask(connection, "/health", b"") == (200, b"POST ")
        assert service.calls == {"a": 2}
        service.reset()
        assert service.calls == {}


def test_it_forwards() -> None:
    with HTTPService(_echo, lambda request: "inner") as inner:
        with HTTPService(forward_to(inner.url), lambda request: "outer") as outer:
            assert _ask(_connect(outer)) == (200, b"POST x")
        assert inner.calls == {"inner": 1}


def test_trouble_answers_instead() -> None:
    with HTTPService(_echo, lambda request: "a") as service:
        service.trouble = lambda request: HTTPAnswer(503) if service.calls.total() == 1 else None
        connection = _connect(service)
        assert [_ask(connection)[0] for _ in range(2)] == [503, 200]
        service.trouble = lambda request: HTTPAnswer(0)
        with pytest.raises(http.client.RemoteDisconnected):
            _ask(connection)


def test_requests_are_held_until_they_are_released() -> None:
    with HTTPService(_echo, lambda request: "a") as service:
        service.hold()
        service.trouble = lambda request: service.release() if service.calls.total() == 2 else None
        answers: list[tuple[int, bytes]] = []
        threads = [threading.Thread(target=lambda: answers.append(_ask(_connect(service)))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [(200, b"POST x")] * 2


def test_nothing_is_answered_after_a_stop() -> None:
    service = HTTPService(_echo, lambda request: "a").start()
    connection = _connect(service)
    _ask(connection)
    service.stop()
    with pytest.raises(http.client.RemoteDisconnected):
        _ask(connection)
    with pytest.raises(ConnectionRefusedError):
        _ask(_connect(service))
