import cv2

from ohem_d2.visualization.curves import Run, draw_scalars, find_scalars


def test_a_resumed_run_has_each_iteration_once():
    # Killed after iteration 59, resumed from the checkpoint of iteration 29.
    lines = [(19, 3), (39, 2), (59, 1), (39, 2.5), (59, 1.5), (79, 1)]
    run = Run("A", [{"iteration": i, "loss_cls": x, "lr": 1} for i, x in lines])
    assert run.series("loss_cls") == ([19, 39, 59, 79], [3, 2.5, 1.5, 1])
    assert run.series("loss_cls", "lr") == ([19, 39, 59, 79], [4, 3.5, 2.5, 2])
    assert run.series("loss_mask") == run.series("loss_cls", "loss_mask") == ([], [])


def test_scalars_that_both_have(tmp_path):
    line = {"iteration": 19, "loss_cls": 1.0, "total_loss": 1.0, "time": 0.1, "eta_seconds": 1.0}
    evaluated = {"iteration": 9, "$x_y$/bbox/AP": 1.0, "$x_y$/bbox/APs": 1.0, "bbox/AP50": 1.0}
    a = Run("A", [{**line, "loss_mask": 1.0, "ohem/mean_loss": 1.0}, evaluated])
    b = Run("B", [line, evaluated])
    # A single AP is not a curve.
    assert find_scalars([a, b]) == ["total_loss", "loss_cls", "time"]
    b = Run("B", [line, evaluated, {"iteration": 19, "$x_y$/bbox/AP": 2.0}])
    scalars = find_scalars([a, b])
    assert scalars == ["total_loss", "loss_cls", "time", "$x_y$/bbox/AP"]
    # Two rows of panels; dollars in a name are not math.
    draw_scalars(tmp_path / "curves.png", [a, b], scalars)
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 5
