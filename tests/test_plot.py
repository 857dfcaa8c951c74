import itertools
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.patches import Rectangle

import flowstone
from cases import disturb
from flowstone import plot
from flowstone.data import TOYS
from flowstone.plot import drawings, fonts
from flowstone.plot.texts import shortened_all
from flowstone.train.history import History, Record


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def trained():
    flow = flowstone.spline(2, hidden=(8,))
    disturb(flow, 0.2)
    return flow.eval(), TOYS["moons"](2000, torch.Generator().manual_seed(0))


def history(n: int = 20) -> History:
    return History([Record(10 * i, i, 5 / i, 6 / i + 0.001 * i, 1e-3, 1.0) for i in range(1, n + 1)])


def test_loss_curve_shows_both_lines_the_best_point_and_the_floor():
    ax = plot.loss_curve(history(), plt.figure().add_subplot(), entropy=0.2)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]  # pyright: ignore
    assert labels[:2] == ["train", "validation"]
    assert labels[2].startswith("best: 0.3200 at step 200")
    assert labels[3] == "entropy: 0.2000"
    low, high = ax.get_ylim()
    assert low < 0.2 < history().best.val_nll < high < 6  # the first steps do not set the scale


def test_the_start_does_not_set_the_scale_of_a_short_history_either():
    records = [
        Record(500 * i, i, 2000 if i == 0 else 600 - i, 2000 if i == 0 else 590 - i, 1e-3, 1.0) for i in range(6)
    ]
    low, high = plot.loss_curve(History(records), plt.figure().add_subplot()).get_ylim()
    assert 500 < low < 585
    assert high < 700


def test_a_history_of_one_record_can_be_drawn():
    plot.loss_curve(history(1), plt.figure().add_subplot())


@pytest.mark.parametrize("losses", [[3.0, 2.0], [2.0, 2.5, 2.6, 2.7, 2.9, 3.0], list(np.linspace(9, 1, 50))])
def test_the_legend_of_losses_is_outside_the_axes_and_the_best_point_inside(losses):
    records = [Record(10 * i, i, loss, loss, 1e-3, 1.0) for i, loss in enumerate(losses, start=1)]
    figure, ((ax,),) = plot.new_figure(1, 1, (5.4, 4.0))
    plot.loss_curve(History(records), ax, entropy=None)
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    frame, box = ax.get_window_extent(), legend.get_window_extent()
    assert not frame.overlaps(box)
    assert not ax.xaxis.label.get_window_extent().overlaps(box)
    assert figure.bbox.y0 <= box.y0
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    low, high = ax.get_ylim()
    assert low < min(losses) < high


def test_density_covers_its_limits_and_shows_samples(trained):
    flow, x = trained
    limits = ((-3.0, 3.0), (-3.0, 3.0))
    ax = plot.density(flow, plt.figure().add_subplot(), limits=limits, samples=x, grid=40)
    assert ax.get_xlim() == limits[0]
    assert ax.get_aspect() == 1
    assert len(ax.collections) >= 2


def test_three_panels_share_the_scale_of_data_and_samples(trained):
    data, latent, samples = plot.data_latent_samples(*trained).axes
    assert data.get_xlim() == samples.get_xlim()
    assert data.get_ylim() == samples.get_ylim()
    one, other = (ax.collections[0].get_facecolor() for ax in (data, latent))
    assert np.array_equal(one, other)  # a point has the colour of its latent
    assert latent.get_xlim()[1] > 2.5


def test_columns_of_very_different_widths_fill_their_frame():
    x = torch.randn(3000, 2) * torch.tensor([0.1, 15_000.0]) + torch.tensor([1.7, 45_000.0])
    flow = flowstone.realnvp(2, hidden=(4,), couplings=2)
    flow.initialize(x)
    (left, right), (bottom, top) = limits = plot.limits_of(x)
    assert right - left < 2
    assert top - bottom > 50_000
    ax = plot.density(flow, plt.figure().add_subplot(), limits=limits, samples=x, grid=40)
    assert ax.get_aspect() == "auto"
    plot.data_latent_samples(flow, x)
    plot.layers(flow, x)


def test_one_column_is_drawn_as_a_curve_over_a_histogram(tmp_path):
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    flow = flowstone.spline(1, couplings=1, hidden=(4,))
    ax = plot.density_curve(flow, plt.figure().add_subplot(), x, column="height")
    curve = torch.tensor(ax.lines[0].get_xydata())
    torch.testing.assert_close(
        curve[:, 1], torch.distributions.Normal(0, 1).log_prob(curve[:, 0]).exp(), atol=1e-5, rtol=0
    )
    assert ax.get_xlabel() == "height"
    assert [p.name for p in plot.save_plots(flow, x, ["height"], history(), tmp_path)] == ["loss.png", "density.png"]


def test_columns_such_as_seconds_since_1970_are_drawn_with_all_their_digits():
    far = torch.tensor([1.7e9, 0.0], dtype=torch.float64)
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double() + far
    one, two = (flowstone.spline(width, couplings=1, hidden=(4,)) for width in (1, 2))
    one.initialize(x[:, :1])
    two.initialize(x)
    curve = torch.tensor(plot.density_curve(one, plt.figure().add_subplot(), x[:, :1]).lines[0].get_xydata())
    normal = torch.distributions.Normal(x[:, 0].mean(), x[:, 0].std()).log_prob(curve[:, 0]).exp()
    torch.testing.assert_close(curve[:, 1], normal.double(), atol=0.01, rtol=0)
    shown = drawings(two, x, ["t", "v"], history())
    (data, latent, samples), (plane, bar) = (
        drawn.axes for name in ("data-latent-samples", "density") if (drawn := shown[name]()) is not None
    )
    for ax in (data, samples):
        left, right = ax.get_xlim()
        assert 6 < right - left < 10
        offsets = np.asarray(ax.collections[0].get_offsets())
        assert offsets[:, 0].std() == pytest.approx(1, abs=0.1)
    latents = np.asarray(latent.collections[0].get_offsets())
    assert latents.std(0) == pytest.approx(1, abs=0.1)
    assert any(np.size(path.vertices) for path in plane.collections[0].get_paths())
    assert bar.get_ylim()[1] == pytest.approx(1 / (2 * math.pi), rel=0.1)


def test_a_density_of_very_small_numbers_can_be_drawn():
    frame = ((0.0, 1.0), (0.0, 1.0))
    for level in (-40.0, -1e4):  # the second is zero in float32, all over the frame
        figure = plt.figure()
        plot.density(lambda x, level=level: level - x.square().sum(-1), figure.add_subplot(), limits=frame, grid=20)
        figure.canvas.draw()


def test_importing_leaves_the_backend_of_the_user_alone():
    code = "import matplotlib; matplotlib.use('svg'); import flowstone.plot; assert matplotlib.get_backend() == 'svg'"
    subprocess.run([sys.executable, "-c", code], check=True)


def panels(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def test_layers_start_at_the_data_and_end_in_the_latent(trained):
    flow, x = trained
    shown = panels(plot.layers(flow, x))
    titles = [title for ax in shown if (title := ax.get_title())]
    assert titles[0] == "data"
    assert len(titles) == len(shown) / 2 == 7  # the data and six couplings
    latent, _ = flow.to_latent(x)
    drawn = next(ax for ax in shown if ax.get_title().startswith("6 ")).collections[0]
    points = torch.tensor(drawn.get_offsets())
    torch.testing.assert_close(points, latent[: len(points)].double().detach(), atol=1e-5, rtol=0)


def test_layers_share_their_axes_and_a_point_keeps_its_colour(trained):
    shown = panels(plot.layers(*trained))
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in shown}) == 1  # the moons lie where their latents do
    forward = [ax.collections[0].get_facecolor() for ax in shown if ax.get_title()]
    assert all(np.array_equal(colors, forward[0]) for colors in forward)
    flow, x = trained
    far = x * torch.tensor([0.1, 15_000.0]) + torch.tensor([1.7, 45_000.0])
    flow = flowstone.spline(2, couplings=2, hidden=(4,))
    flow.initialize(far)
    first, *others = panels(plot.layers(flow, far))
    assert first.get_ylim()[1] > 45_000
    assert sum(ax.get_ylim() == first.get_ylim() for ax in others) == 1  # the samples below the data


def test_colours_are_those_of_directions():
    angle = torch.arange(0, 360, 5.0).deg2rad() + 0.01
    colors = plot.direction_colors(torch.stack((angle.cos(), angle.sin()), 1) * 3 + 7, torch.tensor([7.0, 7.0]))
    assert len(set(colors)) == 6
    assert (colors[1:] != colors[:-1]).sum() == 5  # each has one sector


def test_layers_of_a_deep_flow_stay_few(trained):
    _, x = trained
    assert len(panels(plot.layers(flowstone.spline(2, couplings=30, hidden=(4,)), x))) <= 18


def table(rows: int = 300) -> torch.Tensor:
    """Levels, whole numbers, and numbers with gaps."""
    draw = torch.Generator().manual_seed(0)
    columns = [torch.randint(3, (rows,), generator=draw), torch.randint(60, (rows,), generator=draw)]
    gaps = torch.randn(rows, generator=draw).masked_fill(torch.rand(rows, generator=draw) < 0.2, torch.nan)
    return torch.stack([*(column.double() for column in columns), gaps.double()], 1)


def test_levels_are_bars_with_their_names_and_gaps_are_in_the_title():
    x = table()
    figure = plot.column_figure(x, x[:200], ["size", "count", "mass"], {"size": ["small", "middle", "large"]})
    size, count, mass = panels(figure)
    assert len(size.patches) == 6  # three levels, of data and of samples
    assert [label.get_text() for label in size.get_xticklabels()] == ["small", "middle", "large"]
    shares = [bar.get_height() for bar in size.patches[:3] if isinstance(bar, Rectangle)]
    torch.testing.assert_close(torch.tensor(shares), x[:, 0].long().bincount() / 300, check_dtype=False)
    assert len(count.patches) == 2  # sixty values: a histogram of each
    assert "gaps: " in mass.get_title()


def test_bins_of_whole_numbers_hold_as_many_of_them_each():
    """Otherwise a histogram of uniform numbers would look like a comb."""
    x = torch.arange(100.0).repeat(5)
    edges = plot.ColumnScale(x).edges
    held = [((x > low) & (x < high)).sum().item() for low, high in itertools.pairwise(edges)]
    assert len(set(held[1:-1])) == 1


def test_areas_of_histograms_are_shares_of_all_values():
    data, drawn = torch.linspace(0, 1, 400), torch.linspace(0, 4, 400)
    ax = plot.compare_column(plt.figure().add_subplot(), data, drawn, "x")
    filled, line = (np.asarray(patch.get_path().vertices) for patch in ax.patches)
    assert filled[:, 1].max() == pytest.approx(1, rel=0.2)
    assert line[:, 1].max() == pytest.approx(0.25, rel=0.3)


def test_bins_of_a_grid_end_between_its_values():
    edges = plot.ColumnScale(torch.arange(101).double() / 10).edges  # of which the quantiles are none
    steps = 10 * edges - 0.5
    assert steps == pytest.approx(steps.round())


def test_a_scatter_is_given_arrays(monkeypatch):
    """Of a tensor matplotlib looks at each number by itself."""
    seen = []
    monkeypatch.setattr(plt.Axes, "scatter", lambda ax, x, y, **_: seen.extend((x, y)))
    plot.points(torch.randn(5, 2), plot.new_figure(1, 1, (2, 2))[1][0, 0])
    assert [type(each) for each in seen] == [np.ndarray, np.ndarray]


def test_pairs_put_levels_in_bands_of_points():
    x = table()
    figure = plot.pair_plot(x, x, ["size", "count", "mass"], levels={"size": ["small", "middle", "large"]})
    band = np.asarray(figure.axes[3].collections[0].get_offsets())[:, 0]  # count over size: samples
    assert (abs(band - band.round()) <= 0.3).all()
    assert set(band.round().tolist()) == {0, 1, 2}
    assert len(figure.axes[0].patches) == 6  # bars on the diagonal
    assert figure.axes[6].get_xticklabels()[0].get_text() == "small"


def test_a_column_of_one_value_can_be_drawn():
    x = torch.full((50, 2), 3.0)
    plot.column_figure(x, x, ["a", "b"])
    plot.pair_plot(x, x + torch.nan, ["a", "b"])


@pytest.mark.parametrize("columns", [1, 2])
def test_a_density_is_drawn_as_its_context_changes(columns):
    draw = torch.Generator().manual_seed(0)
    context = torch.randn(200, 2, generator=draw)
    x = context[:, :1] * 3 + 0.1 * torch.randn(200, columns, generator=draw)
    flow = flowstone.realnvp(columns, couplings=2, hidden=(4,), context_features=2) if columns > 1 else None
    flow = flow or flowstone.spline(1, couplings=1, hidden=(4,), context_features=2)
    flow.initialize(x, context)
    figure = plot.conditional_figure(flow, x, context, ["a", "b"][:columns], ["time", "place"])
    assert "time" in figure.axes[0].get_title()
    figure.canvas.draw()
    if columns == 2:
        assert len(figure.axes) == 3


def test_latents_stand_beside_the_prior():
    flow = flowstone.realnvp(20, couplings=2, hidden=(4,))
    shown = panels(plot.latent_figure(flow, torch.randn(100, 20)))
    assert len(shown) == 8  # the distance from the middle, and the features that are farthest from the prior
    assert shown[0].get_title() == "distance from the middle"


def test_pair_plot_puts_data_above_and_samples_below():
    figure = plot.pair_plot(torch.randn(300, 3), torch.randn(300, 3) + 5, ["a", "b", "c"])
    axes = list(figure.axes)
    assert len(axes) == 9
    assert [axes[6 + i].get_xlabel() for i in range(3)] == ["a", "b", "c"]


def test_wide_tables_show_their_first_columns():
    names = [f"c{i}" for i in range(30)]
    figure = plot.pair_plot(torch.randn(50, 30), torch.randn(50, 30), names)
    assert len(figure.axes) == 36
    assert "the first 6 of 30 columns" in figure._suptitle.get_text()  # pyright: ignore


def test_samples_alone_are_not_called_data():
    figure = plot.sample_figure(torch.randn(100, 3), ["a", "b", "c"])
    assert figure._suptitle.get_text() == "samples"  # pyright: ignore
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["samples"]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_samples_alone(columns, tmp_path):
    figure = plot.sample_figure(torch.randn(200, columns), [f"x{i}" for i in range(columns)])
    assert plot.save_figure(figure, tmp_path / "s.png").stat().st_size > 1000


@pytest.mark.parametrize("context_features", [0, 2])
def test_all_pictures_of_images_are_drawn(tmp_path, context_features):
    torch.manual_seed(0)
    flow = flowstone.realnvp_image((3, 6, 4), channels=4, blocks=1, context_features=context_features)
    x = torch.randint(256, (70, 3, 6, 4), dtype=torch.uint8)
    context = torch.randn(70, context_features) if context_features else None
    flow.initialize(x, context)
    written = plot.save_plots(flow.eval(), x, (), history(), tmp_path, context=context, test=x, test_context=context)
    names = ["loss", "samples", "nearest", "temperatures", "reconstructions", "interpolation", "scales", "likely"]
    assert [path.stem for path in written] == names
    assert all(path.stat().st_size > 2000 for path in written)
    given = None if context is None else context[:3]
    few = plot.save_plots(flow, x[:3], (), history(), tmp_path, context=given)
    assert [path.stem for path in few] == [name for name in names if name not in ("interpolation", "likely")]


def test_a_flow_of_one_scale_has_no_picture_of_scales():
    flow = flowstone.nice_image((1, 4, 4), hidden=(4,))
    assert plot.scale_figure(flow, torch.zeros(4, 1, 4, 4, dtype=torch.uint8)) is None


def test_scales_drawn_anew_keep_the_coarse_and_change_the_fine():
    torch.manual_seed(0)
    flow = flowstone.realnvp_image((1, 8, 8), channels=4, blocks=1, scales=3)
    x = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    flow.initialize(x)
    figure = plot.scale_figure(flow.eval(), x)
    assert figure is not None
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["data", "scale 1 anew, 50% of the latents kept", "scale 2 anew, 25% of the latents kept"]


def test_the_nearest_image_to_a_copy_is_the_original():
    x = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8)
    sheet = plot.nearest_figure(x[:2].float(), x, count=2).axes[0].images[0].get_array()
    assert sheet is not None
    assert (sheet[:4, :4] == sheet[:4, 5:9]).all()


def test_every_level_has_its_name_where_there_is_room():
    """A reader cannot know what the highest bar is, if every second name is left out."""
    levels = [f"level {index}" for index in range(16)]
    x = torch.arange(16.0).repeat(10)[:, None]
    figure = plot.column_figure(x, x, ["a"], levels={"a": levels})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == levels


def test_columns_of_many_equal_values_are_not_taken_for_dependent():
    draw = torch.Generator().manual_seed(0)
    mostly_zero = (torch.rand(2000, 3, generator=draw) < 0.05).double()
    x = torch.randn(2000, 2, generator=draw, dtype=torch.float64)
    x[:, 1] += 0.3 * x[:, 0]
    assert plot.most_dependent(torch.cat([mostly_zero, x], 1), 2) == [3, 4]


@pytest.mark.parametrize(
    ("levels", "slanted"),
    [(["S", "M", "L"], False), (["false", "true"], False), (["single ticket", "day ticket", "season ticket"], True)],
)
def test_levels_are_slanted_where_they_have_no_room(levels, slanted):
    x = torch.arange(90.0)[:, None] % len(levels)
    figure = plot.column_figure(x, x, ["a"], levels={"a": levels})
    assert [label.get_rotation() > 0 for label in figure.axes[0].get_xticklabels()] == [slanted] * len(levels)


@pytest.mark.parametrize("name", ["$_$", "$\\frac$", "US$ and A$"])
def test_a_dollar_in_a_name_begins_no_formula(name):
    figure = plot.pair_plot(torch.randn(50, 3), torch.randn(50, 3), [name, "b", "c"])
    plot.png_of(figure)  # a formula that cannot be parsed would raise
    flow = flowstone.nice_image((1, 4, 4), hidden=(4,), context_features=2)
    ax = plot.label_figure(flow, [name, "b"]).axes[0]
    assert ax.figure is not None
    plot.png_of(ax.figure)  # pyright: ignore[reportArgumentType]
    assert not ax.get_yticklabels()[0].get_parse_math()  # pyright: ignore[reportAttributeAccessIssue]


def test_long_names_end_in_their_panels():
    names = ["a", "the district of the station where the ride began"]
    x = torch.randn(200, 2)
    ranked = flowstone.evaluation.calibration(flowstone.nice(2).eval(), x, draws=5)
    for figure in (plot.column_figure(x, x, names), plot.calibration_figure(ranked, names)):
        assert figure.axes[len(figure.axes) - 1].get_title() == "the district of the stati…"


def test_what_ticks_leave_out_stands_beside_the_name():
    """matplotlib would write it across the name, or across the panel above."""
    x = torch.randn(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([3e6, 2e-7, 900.0]) + torch.tensor([0.0, 0.0, 1.7e9])
    pairs = plot.pair_plot(x, x, ["big", "small", "far"])
    assert [ax.get_xlabel() for ax in pairs.axes[6:]] == ["big (×1e6)", "small (×1e−7)", "far (+1.7e9)"]
    assert [pairs.axes[row].get_ylabel() for row in (3, 6)] == ["small (×1e−7)", "far (+1.7e9)"]
    titles = [ax.get_title() for ax in panels(plot.column_figure(x, x, ["big", "small", "far"]))]
    assert titles == ["big (×1e6)", "small (×1e−7)", "far (+1.7e9)"]
    flow = flowstone.realnvp(2, couplings=1, hidden=(4,))
    flow.initialize(x[:, :2])
    plane = plot.data_latent_samples(flow.eval(), x[:, :2].float(), columns=["big", "small"])
    assert plane.axes[0].get_xlabel() == "big (×1e7)"
    for figure in (pairs, plane):
        figure.draw_without_rendering()
        left_out = [axis.offsetText for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
        assert not [text for text in left_out if text.get_visible() and text.get_text()]


def test_names_and_levels_that_begin_alike_stay_different():
    levels = ["Bachelor of Science in Engineering", "Bachelor of Arts", "PhD"]
    x = torch.arange(90.0).reshape(-1, 1) % 3
    figure = plot.column_figure(x, x, ["a"], levels={"a": levels})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["…Science in…", "…Arts", "PhD"]
    names = [f"income of the household before taxes in {year}" for year in (2019, 2020)]
    assert [ax.get_title() for ax in plot.column_figure(x.expand(-1, 2), x.expand(-1, 2), names).axes] == [
        "…2019",
        "…2020",
    ]
    texts = [f"{'x' * 30}{index}" for index in range(12)]
    assert len(set(shortened_all(texts, 8))) == 12


@pytest.mark.parametrize("columns", [2, 3])
def test_the_title_of_pairs_leaves_room_for_the_legend(columns):
    figure = plot.pair_plot(torch.randn(50, columns), torch.randn(50, columns), ["a", "b", "c"][:columns])
    figure.draw_without_rendering()
    title, (legend,) = figure._suptitle, figure.legends  # pyright: ignore
    assert not title.get_window_extent().overlaps(legend.get_window_extent())


def test_a_colour_bar_has_round_ticks(trained):
    flow, x = trained
    figure = plt.figure()
    plot.density(flow, figure.add_subplot(), limits=plot.limits_of(x), grid=30)
    figure.draw_without_rendering()
    ticks = figure.axes[1].get_yticks()
    assert len(ticks) >= 3
    assert all(abs(tick - float(f"{tick:.1g}")) < 1e-9 or abs(tick - float(f"{tick:.2g}")) < 1e-9 for tick in ticks)
    assert figure.axes[0].get_title() == "density"  # there are no samples


def test_corners_of_an_interpolation_are_images_also_given_their_labels():
    torch.manual_seed(0)
    flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, context_features=2)
    disturb(flow, 0.3)
    x = torch.randint(256, (12, 1, 4, 4), dtype=torch.uint8)
    context = torch.eye(2)[torch.arange(12) % 2]
    flow.initialize(x, context)
    sheet = plot.interpolation_figure(flow.eval(), x, context=context).axes[0].images[0].get_array()
    assert sheet is not None
    corners = [sheet[top : top + 4, left : left + 4, 0] for top in (0, 35) for left in (0, 35)]
    for corner, image in zip(corners, x[::2, 0].numpy(), strict=False):  # of the label of the first
        assert np.abs(corner.astype(int) - image.astype(int)).max() <= 1


def test_a_context_of_several_columns_is_drawn_with_the_rows_near_to_it():
    """Others are at their medians, so all rows would say that the density is wrong."""
    draw = torch.Generator().manual_seed(0)
    context = torch.stack([torch.randint(3, (400,), generator=draw), torch.randn(400, generator=draw)], 1).float()
    x = 5 * context[:, 1:]
    flow = flowstone.spline(1, couplings=1, hidden=(4,), context_features=2)
    flow.initialize(x, context)
    ax = plot.conditional_figure(flow, x, context, ["a"], ["kind", "size"]).axes[0]
    across, up = np.asarray(ax.collections[0].get_offsets()).T
    assert abs(up).max() < 2  # 5 times what lies near the median
    assert (abs(across - across.round()) <= 0.3).all()  # few different values have a place each
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
    assert "medians" in ax.get_title()


def test_letters_that_a_font_lacks_come_from_another_font_or_are_named_once(monkeypatch, recwarn):
    has, own = fonts._has, findfont(FontProperties())
    monkeypatch.setattr(fonts, "_has", lambda path, letter: path != own and has(path, letter))
    figure, ((ax,),) = plot.new_figure(1, 1, (3, 2))
    ax.set_title("жук")  # DejaVu Sans Mono has it
    plot.png_of(figure)
    assert len(ax.title.get_fontfamily()) > 1
    assert not recwarn.list
    figure, ((ax,),) = plot.new_figure(1, 1, (3, 2))
    ax.set_title("a \U000ffffd")  # which no font has
    for _ in range(2):
        plot.png_of(figure)
    (said,) = recwarn.list
    assert "no installed font has" in str(said.message)
