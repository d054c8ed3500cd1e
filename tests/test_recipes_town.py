from occloom.recipes_town import TOWN_TRAIN, TOWN_VAL


def test_no_sequence_is_trained_and_scored_on():
    assert not set(TOWN_TRAIN) & set(TOWN_VAL)
    assert not {f"{sequence}" for sequence in range(90, 100)} & {*TOWN_TRAIN, *TOWN_VAL}
