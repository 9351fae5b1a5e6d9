from ohem_d2.utils import read_metrics


def test_a_run_that_has_not_begun(tmp_path):
    assert read_metrics(tmp_path) == []


def test_the_last_line_is_left_out_while_it_is_written(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "lr": 0.1}\n{"iteration": 39, "l')
    assert read_metrics(tmp_path) == [{"iteration": 19, "lr": 0.1}]
