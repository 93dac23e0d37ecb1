"""A board as the JSON that Grafana imports, made with Grafana's Foundation SDK.

Grafana fills in what is not said, and its defaults hide things (the last known value instead of none), so whatever
matters is said here.
"""

from collections.abc import Callable
from typing import Any

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as source

from dashboards.grafana.panels import WIDTH, Board, Limits, Panel, Variable, place

TAG = "neural-bridge"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLOURS = {"green": "green", "yellow": "#EAB839", "red": "red", "blue": "blue"}


def to_json(board: Board) -> str:
    """The board's JSON; the same board gives the same bytes."""
    dashboard = (
        build.Dashboard(board.title)
        .uid(f"nbridge-{board.slug}")
        .description(board.description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Boards")
            .type("dashboards")
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        .variables([_data_source(), *(_variable(variable) for variable in board.variables)])
        .annotation(_starts("host" if board.slug == "gpu" else "instance"))
    )
    number, top = 0, 0
    for row in board.rows:
        number += 1
        dashboard.with_row(build.Row(row.title).id(number).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=top)))
        corners, below = place(row, top + 1)
        for panel, (x, y) in zip(row.panels, corners, strict=True):
            number += 1
            at = model.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            dashboard.with_panel(_panel(panel).id(number).grid_pos(at))
        top = below
    text: str = JSONEncoder(sort_keys=True, indent=1).encode(dashboard.build())
    return text + "\n"


def _starts(variable: str) -> Any:
    """A mark where a process began anew: what came before and after is not one story."""
    expr = f'changes(process_start_time_seconds{{instance=~"${variable}"}}[1m]) > 0'
    return build.AnnotationQuery().name("Restarts").datasource(SOURCE).enable(True).icon_color("blue").expr(expr)


def _data_source() -> Any:
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(variable: Variable) -> Any:
    if variable.kind == "text":
        chosen = model.VariableOption(selected=True, text=variable.query, value=variable.query)
        made = build.TextBoxVariable(variable.name).default_value(variable.query).options([chosen])
    else:
        chosen = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        if variable.default:
            chosen = model.VariableOption(selected=True, text=[variable.default], value=[variable.default])
        made = (
            build.QueryVariable(variable.name)
            .query({"query": variable.query, "refId": variable.name})
            .datasource(SOURCE)
            # At every change of the time: a server that died stays in the list as long as its values are shown.
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
        )
    return made.label(variable.label).description(variable.description).current(chosen)


def _panel(panel: Panel) -> Any:
    made = (
        _KINDS[panel.kind](panel)
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .no_value(panel.absent)
    )
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + index)).datasource(SOURCE)
        if query.legend:
            target = target.legend_format(query.legend)
        target = target.instant() if panel.kind in {"number", "facts"} else target.range()
        if panel.kind == "facts":
            target = target.format(source.PromQueryFormat.TABLE)
        if panel.kind == "heatmap":
            target = target.format(source.PromQueryFormat.HEATMAP)
        made = made.with_target(target)
        if query.limit:
            made = made.override_by_query(target.build().ref_id, _DASHED)
    if panel.minimum is not None:
        made = made.min(panel.minimum)
    if panel.maximum is not None:
        made = made.max(panel.maximum)
    if panel.decimals is not None:
        made = made.decimals(panel.decimals)
    if panel.kind != "heatmap":
        made = made.thresholds(_steps(panel.limits or Limits("blue" if panel.kind == "number" else "green", ())))
    return made


_DASHED = [
    model.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
    model.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": COLOURS["red"]}),
]


def _steps(limits: Limits) -> Any:
    steps = [model.Threshold(value=None, color=COLOURS[limits.base])]
    steps += [model.Threshold(value=float(value), color=COLOURS[colour]) for value, colour in limits.steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _lines(panel: Panel) -> Any:
    shown = kinds.GraphTresholdsStyleMode.DASHED if panel.limits else kinds.GraphTresholdsStyleMode.OFF
    made = (
        timeseries.Panel()
        .draw_style(kinds.GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(30 if panel.stacked else 8)
        .show_points(kinds.VisibilityMode.AUTO)
        .span_nulls(False)
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(shown))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    return made


def _number(panel: Panel) -> Any:
    # A quotient without traffic is NaN: there is no value, and the words for that are shown.
    without = model.SpecialValueMap(
        options=model.DashboardSpecialValueMapOptions(
            match=model.SpecialValueMatch.NULL_AND_NAN, result=model.ValueMappingResult(text=panel.absent, index=0)
        )
    )
    return (
        stat.Panel()
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .justify_mode(kinds.BigValueJustifyMode.AUTO)
        .text_mode(kinds.BigValueTextMode.VALUE)
        .orientation(kinds.VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["last"]).values(False))
        .mappings([without])
    )


def _heatmap(panel: Panel) -> Any:
    return (
        heatmap.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(heatmap.HeatmapColorOptions().mode("scheme").scheme("Blues").steps(64).exponent(0.5).fill("blue"))
        .y_axis(heatmap.YAxisConfig().unit(panel.unit).axis_placement(kinds.AxisPlacement.LEFT))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(kinds.HeatmapCellLayout.AUTO))
        .cell_values(heatmap.CellValues().unit("si:/s"))
        .show_tooltip()
        .show_legend()
    )


def _states(panel: Panel) -> Any:
    options = {
        f"{value:g}": model.ValueMappingResult(text=text, color=COLOURS[colour], index=index)
        for index, (value, text, colour) in enumerate(panel.names)
    }
    return (
        statetimeline.Panel()
        .mappings([model.ValueMap(options=options)])
        .show_value(kinds.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .fill_opacity(70)
        .line_width(0)
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(False)
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.SINGLE).sort(kinds.SortOrder.NONE))
    )


def _facts(panel: Panel) -> Any:
    names = [label for label, _ in panel.labels]
    return (
        table.Panel()
        .show_header(True)
        .cell_height(kinds.TableCellHeight.SM)
        .with_transformation(
            model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": names}})
        )
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": dict(panel.labels),
                },
            )
        )
    )


_KINDS: dict[str, Callable[[Panel], Any]] = {
    "lines": _lines,
    "number": _number,
    "heatmap": _heatmap,
    "states": _states,
    "facts": _facts,
}
