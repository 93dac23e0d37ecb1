"""The definitions printed in every report: (term, meaning) pairs."""

from bench.run.stats.distributions import MIN_SAMPLES

PERCENTILES_NEED = ", ".join(f"≥ {needed:,} values for {name}" for name, needed in MIN_SAMPLES.items())

DEFINITIONS = (
    (
        "TTFT (time to first token)",
        "First content chunk arrived − request sent.",
    ),
    (
        "TTFT from schedule",
        "First content chunk − the instant the arrival process scheduled the request: the figure that includes "
        "queueing in the client. Open-loop loads report both.",
    ),
    (
        "TTFT in parts",
        "Means that add up. In the client: due → left. Connecting: TCP and TLS, for new connections. Network and "
        "unexplained: the client's TTFT less the server's own. Server, beside queue and prefill: taking up, "
        "tokenizing, handing on. Queue and prefill: as the server's histograms sum them up over exactly the measured "
        "requests.",
    ),
    (
        "Arrival",
        "When the kernel had taken up the last byte of what a read brought, on the client's monotonic clock; where the "
        "kernel does not say (TLS, other systems than Linux), when the read returned. The cell says which. A chunk "
        "arrives with its last byte.",
    ),
    (
        "Chunk gap",
        "The time between two arrivals of content chunks of one answer. Chunks that one read brought arrive together.",
    ),
    (
        "ITL (inter-token latency)",
        "The gap before an arrival spread over the tokens that arrived: one value per token.",
    ),
    (
        "TPOT (time per output token)",
        "(Last − first content chunk) / (output tokens after the first chunk): one value per request. Where the server "
        "does not say how many tokens each chunk carries, they are spread evenly over the chunks.",
    ),
    ("E2E (end to end)", "Answer ended − request sent."),
    (
        "Output throughput",
        "Output tokens whose chunks arrived inside the measurement window / length of the window. Closed loop: the "
        "window is the time in which every user is busy; open loop: the scheduled time.",
    ),
    (
        "Hidden states",
        "A request for hidden states (scenario “hidden_states”) is answered in one piece: it has an E2E latency and "
        "prompt tokens, but no TTFT, ITL, TPOT or output tokens. Prompt tokens and mean E2E are held against the "
        "server's own counters of such requests.",
    ),
    (
        "Goodput",
        "Requests per second that met every limit of the SLO (service-level objective), measured from schedule for "
        "open-loop loads. Closed loop: of the answers that ended in the window; open loop: of the requests that were "
        "due in it, whenever they ended (with a limit on TPOT alone, which sees no queue: of those that ended in it).",
    ),
    (
        "Capacity",
        "The highest load (requests/s, or concurrent requests) that meets the SLO, searched by measuring. It is where "
        "half of the points would pass; the interval is the central 95 % of what all verdicts leave possible.",
    ),
    (
        "Knee",
        "Between these levels the median latency rises above twice what one request at a time sees.",
    ),
    (
        "Closed loop, open loop",
        "Closed: a fixed number of users, each sending its next request when the last one is answered. Open: "
        "requests arrive at a set rate, whether or not the server keeps up: as a Poisson process, a gamma process with "
        "burstiness, in equal gaps, along a ramp, in steps, or as in a trace.",
    ),
    (
        "Token counts",
        "The server's own (or, where the plan says so, a named tokenizer's, which is said beside the figures). What an "
        "event carries decides which chunk is the first and the last; counts only count. Figures of tokens that nobody "
        "counted are absent.",
    ),
    (
        "ΔNLL, KL, same first token",
        "How well an engine predicts held-out text beside the baseline, on the same tokens. ΔNLL: negative "
        "log-likelihood of the text's own token less the baseline's, in nats. KL: divergence from the baseline's "
        "next-token distribution, a lower bound from the likeliest tokens. Same first token: share of tokens at which "
        "both put the same one first.",
    ),
    (
        "Percentiles",
        "Computed from the raw records, never from buckets. p50 is the median; 95 % of the values are below p95. "
        f"A percentile needs enough of them and is otherwise absent: {PERCENTILES_NEED}.",
    ),
    (
        "Repeats",
        "The repeat, not the request, is the unit of a confidence interval: requests of one run share its luck.",
    ),
    (
        "Cell",
        "One engine configuration × one load × one repeat.",
    ),
    (
        "Contest, dropped",
        "A contest measures every engine at one load and drops those that are behind by one named figure, so that at "
        "most a part of the grid is measured. A dropped cell was not measured and has not failed. “Surely” behind: by "
        "more than repeats differ by luck in 19 of 20 cases.",
    ),
    (
        "Invalid",
        "A cell is invalid when the client was saturated (dispatch lateness p99 > 20 ms, or of an open load > 5 ms "
        "and > 5 % of the mean gap between requests, or reads p99 > 20 ms and > the median chunk gap "
        "after their bytes had come), when > 1 % of its reads held several "
        "chunks that came one by one while it was late (where the kernel does not say: several chunks), when its clock "
        "was set by more than 0.1 ms or ran more than 0.1 % off, when the delivered load missed the configured one "
        "(arrivals not sent; gaps of another kind than the arrival process has), "
        "when > 1 % of the requests failed, when the client stood still (0.5 s at once, or 2 % of the time in all), or "
        "when client and server disagree (output tokens must equal the server's counter exactly; mean TTFT and E2E "
        "within 5 ms or 3 %, whichever is larger, beyond the time to the response head, until which the "
        "server's own clock may not be running). Warm-up and aborted requests are left out on both sides.",
    ),
    (
        "GPU energy",
        "What the GPUs drew over the measurement window by their energy counters (straight between the samples at its "
        "ends), else the integral of the power sampled every second; idle power is part of it. Per output token: over "
        "the output tokens whose chunks arrived inside the window.",
    ),
    (
        "Server memory",
        "Weights and KV cache as known when the engine starts; the peak is the largest sample taken while the loads "
        "ran: of the server's processes (shared pages counted once), or of the device's memory in use on a GPU.",
    ),
)
