"""Where servers put answers, errors and numbers of tokens."""

import json

import pytest

from slava_jax.teacher import bodies
from slava_jax.teacher.journal import Reply

ANSWER = '{"size": {"short": "Small."}}'
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Wires, I think."}]}


def reply_of(message: object, finish: object = "stop", **more) -> Reply | None:
    body = {"choices": [{"finish_reason": finish, "message": message, **more}]}
    return bodies.reply_in(bodies.parsed(json.dumps(body).encode()))


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": ANSWER}]},
        {"content": [THOUGHT, {"type": "text", "text": ANSWER}]},
        {"content": [{"type": "output_text", "text": ANSWER[:9]}, {"text": ANSWER[9:]}]},
        {"content": [ANSWER]},
        {"content": [{"type": "text", "text": {"value": ANSWER, "annotations": []}}]},
        {"content": {"type": "text", "text": ANSWER}},
        {"content": {"parts": [{"text": ANSWER}]}},
        {"content": json.loads(ANSWER)},
        {"content": None, "reasoning_content": ANSWER},
        {"content": " ", "reasoning": ANSWER},
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": ANSWER}]},
        {"content": [{"type": "reasoning", "text": ANSWER}]},
        {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": ANSWER}}]},
        {"content": None, "function_call": {"arguments": json.loads(ANSWER)}},
    ],
)
def test_an_answer_is_read_wherever_it_is_and_the_message_is_kept(message):
    reply = reply_of(message)
    assert reply.text.strip() == ANSWER
    assert json.loads(reply.raw)["message"] == message


def test_a_plain_message_is_kept_once():
    message = {"role": "assistant", "content": ANSWER, "tool_calls": [], "refusal": None}
    assert reply_of(message) == Reply(ANSWER, "stop")
    assert reply_of(ANSWER) == Reply(ANSWER, "stop")
    assert reply_of({"content": ANSWER, "reasoning": "Hm."}).raw
    assert reply_of({"content": None}, None) == Reply("", "")


def test_a_choice_of_a_stream():
    body = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    assert bodies.reply_in(body).text == "a"


def test_a_part_that_refuses():
    reply = reply_of({"content": [{"type": "refusal", "refusal": "No."}]})
    assert (reply.text, reply.refusal) == ("", "No.")


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "[]", "3", "null", '{"choices": []}', '{"choices": [3]}', '{"choices": [{}]}',
     '{"choices": "x"}', '{"choices": null}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_completion(body):
    parsed = bodies.parsed(body.encode())
    assert bodies.reply_in(parsed) is None and bodies.tokens_in(parsed) is None
    assert bodies.problem_in(parsed, failed=False) is None


@pytest.mark.parametrize("depth", [100, 900, 980, 2000])
def test_deep_nesting_is_no_traceback(depth):
    deep = '{"a":' * depth + "7" + "}" * depth
    message = f'{{"choices": [{{"message": {{"content": [{deep}], "tool_calls": [{deep}]}}}}]}}'
    reply = bodies.reply_in(bodies.parsed(message.encode()))
    assert reply is None or json.loads(reply.text) == json.loads(deep)
    bodies.problem_in(bodies.parsed(deep.encode()), failed=True)
    bodies.problem_in(bodies.parsed(deep.replace("a", "error").encode()), failed=True)


def test_bytes_that_are_not_utf8_and_line_ends_in_strings_do_not_lose_the_answer():
    body = json.dumps({"choices": [{"message": {"content": "a@b"}}]}).encode()
    assert bodies.reply_in(bodies.parsed(body.replace(b"@", b"\n"))).text == "a\nb"
    assert bodies.reply_in(bodies.parsed(body.replace(b"@", b"\xff"))).text == "a\ufffdb"
    assert bodies.reply_in(bodies.parsed(b"\xef\xbb\xbf" + body)).text == "a@b"


@pytest.mark.parametrize(
    ("prompt", "answer", "counted"),
    [(1, 0, True), (10**7, 10**7, True), (10**7 + 1, 1, False), (5, 10**309, False),
     (5, True, False), (5, -1, False), (0, 1, False), (5.0, 1, False)],
)  # fmt: skip
def test_numbers_of_tokens_have_a_bound(prompt, answer, counted):
    usage = {"prompt_tokens": prompt, "completion_tokens": answer}
    body = bodies.parsed(json.dumps({"usage": usage}).encode())
    assert bodies.tokens_in(body) == ((prompt, answer) if counted else None)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "no", "code": "x"}}, "no", "x"),
        ({"error": {"message": "no", "type": "x", "code": None}}, "no", "x"),
        ({"error": "no"}, "no", ""),
        ({"error": {"error": {"message": "no"}}}, "no", ""),
        ([{"error": {"message": "no", "code": 400}}], "no", "400"),
        ({"object": "error", "message": "no", "code": 404}, "no", "404"),
        ({"detail": "no"}, "no", ""),
        ({"detail": [{"loc": ["body", "n"], "msg": "no"}]}, "body.n: no", ""),
        ({"error": {"message": "no", "metadata": {"raw": "wait"}}}, "no (wait)", ""),
        ({"choices": None, "error": {"message": "no"}}, "no", ""),
        ({"error": True, "message": "no"}, "no", ""),
        ({"choices": [{"error": {"message": "no", "code": 502}}]}, "no", "502"),
    ],
)  # fmt: skip
def test_the_servers_own_words(body, message, code):
    for failed in (True, False):
        parsed = bodies.parsed(json.dumps(body).encode())
        assert bodies.problem_in(parsed, failed) == bodies.Problem(message, code)


def test_the_words_of_a_page_and_of_an_unknown_object():
    page = bodies.problem_in(bodies.parsed(b"<html><title>502</title><b>Bad</b></html>"), True)
    assert page.message.split() == ["502", "Bad"]
    assert bodies.problem_in({"odd": 7}, True).message == '{"odd": 7}'
    assert bodies.problem_in({}, True) is None


def test_an_answer_that_broke_off_is_the_servers_error():
    failed = {"error": {"message": "upstream went away", "code": 502}}
    assert reply_of({"content": "half"}, "error", **failed) is None
    assert reply_of({"content": ANSWER}, "stop", **failed).text == ANSWER


@pytest.mark.parametrize(
    ("code", "status"),
    [("404", 404), ("rate_limit_exceeded", 429), ("²00", None), ("200", None), ("odd", None)],
)
def test_the_status_of_a_code(code, status):
    assert bodies.Problem("", code).status == status
