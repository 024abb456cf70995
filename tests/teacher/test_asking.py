"""Requests to a real HTTP server on loopback that simulates faults."""

import asyncio
import email.utils
import itertools
import time

import pytest
from api_server import Api, complete, error, garbage, good_text, half, hang, message_id, serving
from teacher_jobs import job

from slava_jax.data.instructions import read_jsonl
from slava_jax.teacher.client import Endpoint
from slava_jax.teacher.journal import Cost, read_journal
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import teach

OK = lambda number, body: "ok"  # noqa: E731


def first(action, times: int = 1):
    """The first requests get `action`, the others an answer."""
    return lambda number, body: action if number < times else "ok"


def run(tmp_path, behave=OK, again=False, **changes):
    """(server, job, report) of teaching 6 images with one request each."""
    with serving(Api(behave)) as api:
        task = job(tmp_path, api.url, **changes)
        return api, task, teach(task, again)


def stopped(tmp_path, behave=OK, **changes):
    """As `run`, where not every request is answered; the report is the error's."""
    with serving(Api(behave)) as api:
        task = job(tmp_path, api.url, **changes)
        with pytest.raises(TeacherError) as error:
            teach(task)
        return api, task, str(error.value)


def complete_set(task) -> bool:
    """Whether all 6 images have the class and 12 questions in 2 styles."""
    return len(read_jsonl(task.instructions("train"))) == 6 * 25


@pytest.mark.parametrize(
    "fault",
    [error(429), error(500), error(503), error(408), garbage, half, hang(0.0),
     lambda handler: handler.send(200, b"[]"), lambda handler: handler.send(200, b'{"choices"'),
     lambda handler: handler.send(200, b"[" * 100_000)],
    ids=["429", "500", "503", "408", "html", "half", "hung up", "list", "cut json", "deep"],
)  # fmt: skip
def test_a_fault_that_passes_costs_no_answer(tmp_path, fault):
    api, task, report = run(tmp_path, first(fault, 3), concurrency=1)
    assert len(api.bodies) == 6 + 3
    assert complete_set(task)
    assert set(api.answered.values()) == {1}
    assert "failed" not in report


def drip(handler) -> None:
    """Sends single bytes of an answer for a minute."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize("fault", [hang(60.0), drip], ids=["silence", "drip"])
def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_timeout(tmp_path, fault):
    start = time.monotonic()
    api, task, _ = run(tmp_path, first(fault), concurrency=1, timeout=1.0)
    assert 1.0 < time.monotonic() - start < 40
    assert complete_set(task) and len(api.bodies) >= 7


def until_later(handler) -> None:
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    error(429, Retry_After=date)(handler)


@pytest.mark.parametrize("fault", [error(429, Retry_After="0.6"), until_later], ids=["s", "date"])
def test_retry_after_holds_all_requests_back(tmp_path, fault):
    api, task, _ = run(tmp_path, first(fault), concurrency=3)
    first_time, *others = api.times
    assert min(others) - first_time > 0.55
    assert complete_set(task)


@pytest.mark.parametrize("fault", [error(500), error(429, Retry_After=0)], ids=["500", "0 s"])
def test_back_off_doubles(tmp_path, fault):
    api, _, _ = run(tmp_path, first(fault, 4), concurrency=1, backoff=0.08, per_class=1, attempts=6)
    gaps = [later - before for before, later in itertools.pairwise(api.times)]
    assert all(gap >= 0.5 * 0.08 * 2**n for n, gap in enumerate(gaps[:4]))


def test_a_long_retry_after_ends_the_run(tmp_path):
    with pytest.raises(TeacherError, match=r"asks to wait 5000 s"):
        run(tmp_path, first(error(429, Retry_After=5000), 100))


@pytest.mark.parametrize(
    ("fault", "said"),
    [(error(401, "Incorrect key"), "HTTP 401: Incorrect key"),
     (error(404, "no such model"), "HTTP 404: no such model"),
     (error(429, "no credit", code="insufficient_quota"), "HTTP 429: no credit")],
    ids=["key", "model", "credit"],
)  # fmt: skip
def test_what_no_request_can_pass_ends_the_run_at_once(tmp_path, fault, said):
    with serving(Api(first(fault, 100))) as api, pytest.raises(TeacherError, match=said):
        teach(job(tmp_path, api.url, concurrency=1))
    assert len(api.bodies) == 1


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(TeacherError, match=r"in a row failed, .* cannot be reached"):
        teach(job(tmp_path, per_class=4, attempts=2, backoff=0.001))
    spent = read_journal(tmp_path / "teacher/journal.jsonl").spent
    assert spent.requests >= 20 and spent.tokens == 0  # nothing arrived, so nothing was charged


def test_a_broken_server_is_given_up_and_gone_on_with(tmp_path):
    with pytest.raises(TeacherError, match="10 requests in a row failed, the last with: HTTP 500"):
        run(tmp_path, first(error(500), 1000), per_class=4, attempts=1, concurrency=2)
    _, task, report = run(tmp_path, per_class=4)
    assert len(read_jsonl(task.instructions("train"))) == 12 * 25
    assert "not answered" not in report


def test_one_request_that_cannot_be_answered_is_left_out(tmp_path):
    bad = []

    def behave(number, body):
        bad.append(message_id(body)) if not bad else None
        return error(400, "image too small") if message_id(body) == bad[0] else "ok"

    api, task, report = stopped(tmp_path, behave)
    assert len(api.bodies) == 6  # 400 is not tried again
    assert len(read_jsonl(task.instructions("train"))) == 5 * 25 + 1
    assert "1 requests failed: HTTP 400: image too small" in report
    assert report.startswith("1 of 6 requests are unanswered")


def test_failures_between_answers_are_not_in_a_row(tmp_path):
    behave = lambda number, body: error(400) if number % 2 else "ok"  # noqa: E731
    api, _, report = stopped(tmp_path, behave, per_class=8, concurrency=1)
    assert len(api.bodies) == 24 and "12 requests failed" in report


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_an_error_of_a_filter_is_a_refusal(tmp_path, code):
    api, task, report = run(tmp_path, first(error(400, "flagged", code=code)), concurrency=1)
    assert len(api.bodies) == 6 and "24 refused" in report and "failed" not in report
    assert '"reason": "flagged"' in task.rejected.read_text()
    assert read_journal(task.journal).spent == Cost(6, 500, 50)  # a refused one is not charged
    assert not run(tmp_path)[0].bodies


def test_a_message_in_the_form_of_fastapi(tmp_path):
    raw = b'{"detail": "pinned to another model"}'
    *_, report = stopped(tmp_path, lambda number, body: lambda handler: handler.send(400, raw))
    assert "6 requests failed: HTTP 400: pinned to another model" in report


def test_no_more_requests_at_a_time_than_allowed(tmp_path):
    with serving(Api()) as api:
        api.delay = 0.1
        teach(job(tmp_path, api.url, concurrency=4, per_class=4))
    assert 1 < api.most <= 4


def test_the_second_run_asks_nothing(tmp_path):
    api, task, _ = run(tmp_path)
    written = task.instructions("train").read_bytes()
    task.instructions("train").unlink()
    again, task, _ = run(tmp_path)
    assert len(api.bodies) == 6 and not again.bodies
    assert task.instructions("train").read_bytes() == written


def test_what_was_refused_is_asked_again_where_that_is_wished(tmp_path):
    api, task, report = run(tmp_path, first(complete("I'm sorry, I can't help."), 2), concurrency=1)
    assert "48 refused" in report and not complete_set(task)
    api, task, report = run(tmp_path)
    assert not api.bodies and "48 refused" in report
    api, task, report = run(tmp_path, again=True)
    assert len(api.bodies) == 2 and complete_set(task) and "no answers" in report


@pytest.mark.parametrize("name", ["requests", "tokens", "money"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_stops_it_before_it_is_exceeded(tmp_path, name, concurrency):
    """An answer costs 110 tokens and 1.2 in money; a running request counts at its highest cost, so
    a limit of four answers plus the highest cost of a fifth allows five."""
    own = {
        "request": {"max_tokens": 1000}, "image_tokens": 200, "concurrency": concurrency,
        "prices": {"input": 1e4, "output": 2e4},
    }  # fmt: skip
    guess = max(request.guess for request in job(tmp_path, **own).plan())
    limits = {"requests": 5, "tokens": 4 * 110 + guess + 1000, "money": 4 * 1.2 + guess / 100 + 20}

    def budget(factor: int) -> dict:
        return {n: factor * limits[name] if n == name else 0 for n in limits}

    api, task, report = stopped(tmp_path, budget=budget(1), **own)
    assert f"could exceed the budget: {name} {limits[name]:g}" in report
    assert len(api.bodies) == 5
    # It also applies to the next run; with a larger one nothing is asked twice.
    api, _, _ = stopped(tmp_path, budget=budget(1), **own)
    assert len(api.bodies) == 0
    api, task, _ = run(tmp_path, budget=budget(100), **own)
    assert len(api.bodies) == 1 and complete_set(task)


def test_messages_larger_than_expected_do_not_break_the_budget(tmp_path):
    usage = {"prompt_tokens": 20_000, "completion_tokens": 10}
    behave = lambda number, body: complete(good_text(body), usage=usage)  # noqa: E731
    budget = {"requests": 0, "tokens": 75_000, "money": 0.0}
    api, _, _ = stopped(tmp_path, behave, budget=budget, image_tokens=10, concurrency=8)
    assert len(api.bodies) == 3


def test_messages_with_more_images_do_not_break_the_budget(tmp_path):
    """One image says little about the cost of four: the first such request is also sent alone."""

    def behave(number, body):
        images = sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        tokens = {"prompt_tokens": 300 + 2000 * images, "completion_tokens": 10}
        return complete(good_text(body), usage=tokens)

    _, task, _ = stopped(
        tmp_path, behave, budget={"requests": 0, "tokens": 40_000, "money": 0.0}, per_class=4,
        images_per_category=1, groups_per_category=4, images_per_group=4, image_tokens=10,
        request={"max_tokens": 100}, concurrency=16,
    )  # fmt: skip
    assert 25_000 < read_journal(task.journal).spent.tokens <= 40_000


def test_a_model_that_is_larger_than_the_last_does_not_break_the_budget(tmp_path):
    own = {"request": {"max_tokens": 100}, "image_tokens": 10, "concurrency": 8}
    run(tmp_path, images_per_category=1, **own)
    usage = {"prompt_tokens": 20_000, "completion_tokens": 10}
    behave = lambda number, body: complete(good_text(body), usage=usage)  # noqa: E731
    budget = {"requests": 0, "tokens": 50_000, "money": 0.0}
    _, task, _ = stopped(tmp_path, behave, budget=budget, model="larger", **own)
    assert 40_000 < read_journal(task.journal).spent.tokens <= 50_000


def test_a_server_that_does_not_keep_to_max_tokens(tmp_path):
    usage = {"prompt_tokens": 100, "completion_tokens": 20_000}
    behave = lambda number, body: complete(good_text(body), usage=usage)  # noqa: E731
    budget = {"requests": 0, "tokens": 50_000, "money": 0.0}
    _, task, _ = stopped(tmp_path, behave, budget=budget, request={"max_tokens": 100})
    assert read_journal(task.journal).spent.tokens == 2 * 20_100


def test_attempts_that_may_have_been_paid_for_count(tmp_path):
    budget = {"requests": 0, "tokens": 6000, "money": 0.0}
    own = {"request": {"max_tokens": 1000}, "image_tokens": 10, "concurrency": 1, "attempts": 8}
    api, _, report = stopped(tmp_path, first(half, 1000), budget=budget, **own)
    assert 2 <= len(api.bodies) <= 5 and "budget: tokens 6000" in report


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": 100}, {"prompt_tokens": 0, "completion_tokens": 0}, [7],
     {"prompt_tokens": -5, "completion_tokens": 3}, {"prompt_tokens": 1e999},
     {"prompt_tokens": 10**309, "completion_tokens": 10**309},
     {"prompt_tokens": 100, "completion_tokens": 10**8},
     {"prompt_tokens": 10**4290, "completion_tokens": 3}],
)  # fmt: skip
def test_a_server_that_does_not_count_tokens(tmp_path, usage):
    """The highest cost is used instead, and the answer is kept."""
    behave = lambda number, body: complete(good_text(body), usage=usage)  # noqa: E731
    api, task, _ = run(tmp_path, behave, request={"max_completion_tokens": 700})
    assert len(api.bodies) == 6
    assert complete_set(task)
    assert read_journal(task.journal).spent.output == 6 * 700
    assert api.bodies[0]["max_completion_tokens"] == 700
    assert not run(tmp_path, behave)[0].bodies  # the journal is not poisoned


def test_the_key_goes_to_the_server_it_is_meant_for(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("HOUSE_KEY", " sk-of-the-house\n")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-openai")
    api, _, _ = run(tmp_path)
    assert not any("-of-" in str(headers) for headers in api.headers)
    api, _, _ = run(tmp_path / "two", key_variable="HOUSE_KEY")
    assert {headers["Authorization"] for headers in api.headers} == {"Bearer sk-of-the-house"}
    for value, said in (("", "is not set"), ("sk-\u00e9", "not contain a valid key")):
        monkeypatch.setenv("HOUSE_KEY", value)
        with pytest.raises(TeacherError, match=said):
            run(tmp_path / "three", key_variable="HOUSE_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(TeacherError, match="OPENAI_API_KEY is not set"):
        asyncio.run(_open(job(tmp_path, "")))


async def _open(task) -> None:
    Endpoint(task.settings)
