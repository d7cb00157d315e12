from osplan.domain.history import after_checkpoint


def change(step, path="clip.norm"):
    return {"event": "command", "name": "set", "status": "applied", "step": step, "path": path}


def rolled_back(to, at):
    return {"event": "incident", "step": at, "rolledBackTo": to, "after": {}}


def test_changes_after_a_checkpoint_are_made_again_whether_or_not_it_was_written_by_then():
    events = [change(3), change(5), {"event": "checkpoint", "step": 4}, change(7)]
    assert after_checkpoint(events, 4).commands == [events[1], events[3]]
    assert after_checkpoint(events, 4).rollback is None


def test_what_was_refused_and_what_moves_nothing_is_not_made_again():
    refused, stop, sample = {**change(5), "status": "refused"}, {**change(5), "name": "stop"}, {**change(5), "name": "sample"}
    assert after_checkpoint([refused, stop, sample], 4).commands == []


def test_a_measurement_and_a_stop_for_later_are_asked_for_again():
    measure, stop = {**change(5), "name": "measure"}, {**change(5), "name": "stop", "effective": {"after": 9}}
    assert after_checkpoint([measure, stop], 4).commands == [measure, stop]


def test_a_roll_back_to_the_checkpoint_decides_and_only_what_came_after_it_is_made_again():
    events = [change(6), rolled_back(4, 8), change(5)]
    since = after_checkpoint(events, 4)
    assert (since.rollback, since.commands) == (events[1], [events[2]])


def test_the_newest_roll_back_counts():
    events = [rolled_back(4, 8), change(6), rolled_back(4, 9), change(7)]
    since = after_checkpoint(events, 4)
    assert (since.rollback, since.commands) == (events[2], [events[3]])


def test_a_checkpoint_written_after_a_roll_back_to_before_it_knows_of_that():
    events = [change(7), rolled_back(4, 8), rolled_back(2, 8), change(5), change(8)]
    since = after_checkpoint(events, 6)
    assert (since.rollback, since.commands) == (None, [events[4]])


def test_a_roll_back_to_a_later_checkpoint_leaves_the_changes_before_it():
    events = [change(5), rolled_back(6, 9), change(8)]
    assert after_checkpoint(events, 4).commands == [events[0], events[2]]
