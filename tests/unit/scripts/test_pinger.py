from scripts.labkit.pinger import summarize

SENT = {n: n * 0.005 for n in range(10)}


def test_gap_is_the_longest_silence_between_replies() -> None:
    replies = [(n, n * 0.005 + 0.001) for n in range(10) if n not in (4, 5, 6)]
    result = summarize(sent=SENT, replies=replies)
    assert (result.lost, result.gap_ms) == (3, 20.0)
    assert abs(result.gap_at - 0.016) < 1e-9


def test_second_reply_to_one_request_is_a_duplicate_not_a_reply() -> None:
    replies = [(n, n * 0.005 + 0.001) for n in range(10)]
    result = summarize(sent=SENT, replies=[*replies, replies[3]])
    assert (result.received, result.lost, result.duplicates) == (10, 0, 1)


def test_silence_up_to_the_last_request_is_a_gap() -> None:
    result = summarize(sent=SENT, replies=[(n, n * 0.005 + 0.001) for n in range(4)])
    assert result.gap_ms == 29.0
    assert abs(result.gap_at - 0.016) < 1e-9


def test_times_of_lost_requests_are_told() -> None:
    replies = [(n, n * 0.005 + 0.001) for n in range(10) if n not in (4, 5)]
    assert summarize(sent=SENT, replies=replies).lost_at == (SENT[4], SENT[5])


def test_silence_yields_losses_and_no_gap() -> None:
    result = summarize(sent=SENT, replies=[])
    assert (result.sent, result.received, result.lost, result.gap_ms) == (10, 0, 10, 0.0)
