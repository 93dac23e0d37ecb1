"""The board of the GPUs, from `nbridge exporter`. A GPU that does not tell a value has no line."""

from dashboards.grafana.limits import GPU_STALE_S, GPU_TEMPERATURE, GPU_THROTTLED
from dashboards.grafana.panels import Board, Panel, Query, Row, high_is_bad, lines, low_is_bad, number
from dashboards.grafana.promql import increase
from dashboards.grafana.variables import GPU, HOST

DEVICE = 'instance=~"$host",gpu=~"$gpu"'
WHOLE = f'{DEVICE},mig=""'  # a MIG slice repeats its parent's index
EACH = "{{instance}} GPU {{gpu}}"

NOW = Row(
    "Now",
    (
        number(
            "GPUs answering",
            "GPUs that answer NVML, of those that the exporters have seen or expect.",
            "percentunit",
            'sum(nbridge_gpu_up{instance=~"$host",mig=""}) / sum(nbridge_gpu_expected_count{instance=~"$host"} > 0)',
            limits=low_is_bad(0.5, 1),
            absent="no GPU",
        ),
        number(
            "Oldest reading",
            "Age of the oldest exporter's last collection. Old readings are not shown as new ones: the GPUs "
            "count as down.",
            "s",
            'max(time() - nbridge_gpu_last_collect_timestamp_seconds{instance=~"$host"})',
            limits=GPU_STALE_S,
            absent="no exporter",
        ),
        number(
            "Hottest",
            "The highest temperature of the chosen GPUs.",
            "celsius",
            f"max(nbridge_gpu_temperature_celsius{{{WHOLE}}})",
            limits=GPU_TEMPERATURE,
        ),
        number(
            "Power together",
            "Drawn by the chosen GPUs together.",
            "watt",
            f"sum(nbridge_gpu_power_watts{{{WHOLE}}})",
        ),
        number(
            "Energy",
            "Used by the chosen GPUs together within the time shown.",
            "kwatth",
            f"{increase('nbridge_gpu_energy_joules_total', WHOLE)} / 3.6e6",
        ),
        number(
            "Memory free",
            "On the chosen GPUs together.",
            "bytes",
            f"sum(nbridge_gpu_memory_total_bytes{{{WHOLE}}} - nbridge_gpu_memory_used_bytes{{{WHOLE}}})",
        ),
        number(
            "XID errors",
            "Errors that the driver reported within the time shown, of every code. The code says what to do.",
            "short",
            increase("nbridge_gpu_xid_errors_total", DEVICE),
            decimals=0,
            limits=high_is_bad(1, 1),
            absent="not reported",
        ),
        number(
            "Uncorrectable ECC",
            "Memory errors that could not be corrected, within the time shown.",
            "short",
            increase("nbridge_gpu_ecc_errors_total", f'{WHOLE},type="uncorrected"'),
            decimals=0,
            limits=high_is_bad(1, 1),
            absent="not reported",
        ),
    ),
)

HEAT = Row(
    "Heat and power",
    (
        lines(
            "Temperature",
            "Of each GPU. The GPU slows itself down near its own limit, some degrees above the alert.",
            "celsius",
            Query(f"nbridge_gpu_temperature_celsius{{{WHOLE}}}", EACH),
            limits=GPU_TEMPERATURE,
        ),
        lines(
            "Power",
            "Of each GPU.",
            "watt",
            Query(f"nbridge_gpu_power_watts{{{WHOLE}}}", EACH),
        ),
        lines(
            "Slowed down, by reason",
            "Share of the time in which a GPU held its clocks back, for the worst of the chosen ones. Thermal: "
            "look at fans and airflow. Power cap: normal at full load under a limit.",
            "percentunit",
            *(
                Query(f"max(rate(nbridge_gpu_throttle_seconds_total{{{WHOLE},{reason}}}[$__rate_interval]))", name)
                for name, reason in (
                    ("heat", 'reason=~".*thermal.*"'),
                    ("power", 'reason=~".*power.*"'),
                    ("other", 'reason!~".*(thermal|power).*"'),
                )
            ),
            limits=GPU_THROTTLED,
            maximum=1.0,
        ),
    ),
)

WORK = Row(
    "Work",
    (
        lines(
            "Utilization",
            "Share of the time in which at least one kernel ran. Near 1 is normal under load; it does not say "
            "how well the GPU is used.",
            "percentunit",
            Query(f"nbridge_gpu_utilization_ratio{{{WHOLE}}}", EACH),
            maximum=1.0,
        ),
        lines(
            "SM clock",
            "What the GPU's multiprocessors run at. It falls when idle, and when throttled.",
            "hertz",
            Query(f'nbridge_gpu_clock_hertz{{{WHOLE},clock="sm"}}', EACH),
        ),
        lines(
            "PCIe traffic",
            "Of the chosen GPUs together. Steady traffic while serving means weights or cache in the host's "
            "memory, or a tensor-parallel group without NVLink.",
            "Bps",
            Query(f"sum by (direction) (nbridge_gpu_pcie_throughput_bytes_per_second{{{WHOLE}}})", "{{direction}}"),
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        lines(
            "Memory in use",
            "Of each GPU. vLLM takes its share at the start and keeps it; a rise afterwards is someone else.",
            "bytes",
            Query(f"nbridge_gpu_memory_used_bytes{{{WHOLE}}}", EACH),
            Query(f"max(nbridge_gpu_memory_total_bytes{{{WHOLE}}})", "largest GPU's size", limit=True),
        ),
        lines(
            "Memory by process",
            "Of every process on the chosen GPUs, by its name and number.",
            "bytes",
            Query(
                f"sum by (instance, name, pid) (nbridge_gpu_process_memory_bytes{{{DEVICE}}})",
                "{{name}} {{pid}} {{instance}}",
            ),
            stacked=True,
        ),
        lines(
            "ECC errors per hour",
            "Memory errors by type. Corrected ones are counted and harmless until they become many.",
            "short",
            Query(increase("nbridge_gpu_ecc_errors_total", WHOLE, by="type", window="1h"), "{{type}}"),
        ),
    ),
)

TROUBLE = Row(
    "Trouble",
    (
        Panel(
            "states",
            "GPUs",
            "Whether each GPU answers NVML. Down: lost, hung, or its readings are too old.",
            "none",
            (Query(f"nbridge_gpu_up{{{WHOLE}}}", EACH),),
            width=12,
            height=6,
            names=((0, "down", "red"), (1, "up", "green")),
            absent="no GPU",
        ),
        lines(
            "XID errors per hour, by code",
            "Errors that the driver reported. 48, 63, 64, 94, 95: memory; 79: fell off the bus; 13, 31, 43: "
            "usually the program's fault.",
            "short",
            Query(
                f"{increase('nbridge_gpu_xid_errors_total', DEVICE, by='instance, gpu, xid', window='1h')} > 0",
                "XID {{xid}} on {{instance}} GPU {{gpu}}",
            ),
            width=12,
            height=6,
            absent="none",
        ),
    ),
)

BOARD = Board(
    "gpu",
    "Neural Bridge / GPU",
    "Temperature, power, work, memory and errors of the GPUs, from nbridge exporter.",
    (HOST, GPU),
    (NOW, HEAT, WORK, MEMORY, TROUBLE),
)
