"""The Ray Serve application: settings → a deployment with its options. `application` is what Ray's own configuration
files and `serve run` name."""

from typing import Any

from deploy.ray.replica import STOP_S, Replica
from deploy.ray.scaling import Policy
from deploy.ray.settings import PROXIES, Settings, parse

IMPORT_PATH = "deploy.ray.application:application"
DEPLOYMENT = "server"
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0  # an API server that is busy answers late; one that has not in all this time does not at all
_FAILED_STARTS = 3


def application(args: dict[str, Any]) -> Any:
    """The application for the `args` of a configuration file. Raises SettingsError."""
    settings = parse(args, "the application's args")
    return bound(settings, gpus_of(settings))


def bound(settings: Settings, gpus: int) -> Any:
    """The application of these settings, with so many GPUs for each replica."""
    from ray import serve

    deployment = serve.deployment(**options(settings, gpus))(Replica)
    return deployment.bind(settings.document())


def gpus_of(settings: Settings) -> int:
    """How many GPUs a replica takes: as said, else what the engine spreads over where a node of the cluster has one."""
    import ray

    if settings.door.gpus is not None:
        return settings.door.gpus
    engine = settings.engine
    spread = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    return spread if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else 0


def options(settings: Settings, gpus: int) -> dict[str, Any]:
    """The deployment's options, as Ray names them."""
    door, scaling = settings.door, settings.scaling
    found: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": door.places,
        "max_queued_requests": door.queue,
        "graceful_shutdown_timeout_s": door.drain_s + STOP_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "max_constructor_retry_count": _FAILED_STARTS,
        "ray_actor_options": {"num_cpus": door.cpus, "num_gpus": gpus},
    }
    if scaling.min_replicas == scaling.max_replicas:
        return found | {"num_replicas": scaling.min_replicas}
    from ray.serve.config import AutoscalingPolicy

    per_replica = {
        "waiting_per_replica": scaling.waiting_per_replica,
        "in_work_per_replica": scaling.in_work_per_replica,
    }
    return found | {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "look_back_period_s": scaling.look_s,
            "upscale_delay_s": scaling.up_after_s,
            "downscale_delay_s": scaling.down_after_s,
            "policy": AutoscalingPolicy(policy_function=Policy, policy_kwargs=per_replica),
        }
    }


def configuration(settings: Settings) -> dict[str, Any]:
    """The same as a file for `serve run` and `serve deploy`."""
    return {
        "proxy_location": PROXIES[settings.door.proxies],
        "http_options": {"host": settings.door.host, "port": settings.door.port},
        "applications": [
            {
                "name": settings.door.name,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": settings.document(),
            }
        ],
    }
