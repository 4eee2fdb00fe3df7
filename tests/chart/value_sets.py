"""Many ways to install the chart. Every check of what is rendered is made on each of them."""

from typing import Any

KEY = "k" * 40
SEAL = "A" * 43 + "="
EXTERNAL: dict[str, Any] = {
    "postgresql": {"enabled": False},
    "redis": {"enabled": False},
    "externalDatabase": {"existingSecret": "database", "key": "url", "cidrs": ["10.1.2.0/24"]},
    "externalRedis": {"existingSecret": "queue", "key": "url"},
}
"""Database and queue outside the release, their addresses in secrets of the operator."""

GIVEN: dict[str, Any] = {
    "postgresql": {"enabled": False},
    "redis": {"enabled": False},
    "externalDatabase": {"url": "postgresql://modelferry:planted-database@db.example:5433/modelferry", "port": 5433},
    "externalRedis": {"url": "rediss://:planted-queue@queue.example:6380/0", "port": 6380},
    "secrets": {
        "adminKey": {"value": "planted-admin-" + KEY},
        "secretKey": {"value": SEAL},
        "hfToken": {"value": "planted-hf"},
        "getiToken": {"value": "planted-geti"},
    },
}
"""The same, with everything in the values."""

EXISTING: dict[str, Any] = {
    "secrets": {
        name: {"existingSecret": f"own-{number}", "key": f"key-{number}"}
        for number, name in enumerate(("adminKey", "secretKey", "hfToken", "getiToken"))
    },
    "postgresql": {"auth": {"existingSecret": "own-postgres"}},
    "redis": {"auth": {"existingSecret": "own-redis"}},
    "flower": {"enabled": True, "auth": {"existingSecret": "own-flower"}},
    "imagePullSecrets": [{"name": "own-registry"}],
}

STARTUP: dict[str, Any] = {
    "startupConfig": {
        "enabled": True,
        "config": {
            "download_path": ".",
            "models": [{"name": "BAAI/bge-small-en-v1.5", "hub": "huggingface"}],
            "gates": {
                "chat": {
                    "models": [
                        {
                            "name": "Qwen/Qwen3-0.6B",
                            "hub": "openvino",
                            "type": "llm",
                            "is_ovms": True,
                            "config": {"precision": "int4", "device": "CPU", "cache_size": 4},
                        }
                    ]
                }
            },
        },
    }
}

POOLS: dict[str, Any] = {
    "pools": {
        "download": {"kind": "download", "replicas": 3, "slots": 8},
        "convert": {"kind": "convert", "enabled": False},
        "convert-large": {
            "kind": "convert",
            "drainSeconds": 3600,
            "image": {"repository": "modelferry-convert", "tag": "1.2.3"},
            "resources": {"requests": {"memory": "96Gi"}, "limits": {"memory": "128Gi"}},
            "nodeSelector": {"size": "large"},
            "tolerations": [{"key": "large", "operator": "Exists", "effect": "NoSchedule"}],
            "config": {"MODELFERRY_CONVERT_MEMORY_MB": 100000, "MODELFERRY_KEEP_FP16": "on"},
            "extraEnv": [{"name": "THEIR_PLUGIN_TOKEN", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "t"}}}],
        },
        "convert-gpu": {
            "kind": "convert",
            "resources": {"limits": {"memory": "16Gi", "gpu.intel.com/i915": 1}},
            "podSecurityContext": {"supplementalGroups": [109]},
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        },
    }
}

ALL: dict[str, Any] = {
    **STARTUP,
    "fullnameOverride": "model-download",
    "image": {"registry": "registry.example", "tag": "1.2.3"},
    "config": {"MODELFERRY_KEEP_JOBS": 10_000_000, "GETI_HOST": "https://geti.example", "MODELFERRY_LEASE_S": 90.5},
    "proxy": {"http": "http://proxy.example:912", "https": "http://proxy.example:912", "noProxy": ".svc,10.0.0.0/8"},
    "access": {
        "openNetworks": ["10.0.0.0/8", "fd00::/8"],
        "trustedProxies": ["10.42.0.0/16"],
        "allowedHosts": ["models.example"],
        "rateLimit": "600/minute",
        "keepAuditDays": 0,
        "oidc": {
            "issuer": "https://sso.example/realms/edge",
            "audience": "modelferry",
            "roles": {"ml-admins": "admin", "*": "viewer"},
            "rolesClaim": "realm_access.roles",
        },
    },
    "api": {
        "autoscaling": {"enabled": True},
        "podAnnotations": {"example/a": "b"},
        "podLabels": {"team": "edge"},
        "priorityClassName": "high",
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "modelferry"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    },
    "service": {"type": "NodePort", "nodePort": 32000, "port": 8200},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "hosts": [{"host": "models.example"}],
        "tls": [{"hosts": ["models.example"], "secretName": "models-tls"}],
    },
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["models.example"]},
    "flower": {"enabled": True, "url": "https://flower.example"},
    "metrics": {
        "port": 9500,
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True, "annotations": {"folder": "AI"}},
    },
    "tracing": {"endpoint": "http://collector.tracing:4318"},
    "reconciler": {"replicas": 2},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {"a": "b"}}
    ],
}

KEDA: dict[str, Any] = {
    "keda": {"serverAddress": "http://prometheus.monitoring:9090", "authenticationRef": {"name": "prometheus"}},
    "poolDefaults": {
        "download": {"autoscaling": {"enabled": True, "queueDepth": 4}},
        "convert": {"autoscaling": {"enabled": True, "minReplicas": 0}},
    },
}

SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": ALL,
    "external": EXTERNAL,
    "given": GIVEN,
    "existing": EXISTING,
    "pools": POOLS,
    "keda": KEDA,
    "startup": STARTUP,
    "cpu": {
        "poolDefaults": {"convert": {"autoscaling": {"enabled": True, "by": "cpu"}}},
        "api": {"autoscaling": {"enabled": True}},
    },
    "one-node": {"persistence": {"accessModes": ["ReadWriteOnce"], "subPath": "models", "storageClass": "-"}},
    "one-node-affinity": {
        "persistence": {"accessModes": ["ReadWriteOnce"]},
        "api": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
    },
    "existing-claim": {"persistence": {"existingClaim": "shared-models", "subPath": "modelferry"}},
    "not-kept": {"persistence": {"keep": False, "annotations": {"a": "b"}}},
    "gateway": {
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}], "path": "/models"}
    },
    "service-monitor": {"metrics": {"serviceMonitor": {"enabled": True, "interval": "15s"}}},
    "access-off": {"access": {"mode": "off"}, "tests": {"enabled": False}},
    "no-network-policy": {"networkPolicy": {"enabled": False}},
    "network": {
        "networkPolicy": {
            "apiFrom": [{"podSelector": {"matchLabels": {"app": "chat"}}}],
            "metricsFrom": [],
            "proxyPorts": [912],
            "extraEgress": {"download": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}]},
        },
        "proxy": {"existingSecret": "own-proxy"},
    },
    "umbrella": {
        "global": {
            "keeppvc": False,
            "proxy": {
                "http_proxy": "http://proxy.example:912",
                "https_proxy": "https://proxy.example",
                "no_proxy": ".svc",
            },
            "theirs": {"anything": 1},
        }
    },
    "digests": {
        "image": {"digest": "sha256:" + "a" * 64},
        "postgresql": {"image": {"digest": "sha256:" + "b" * 64}},
    },
    "bare": {
        **EXTERNAL,
        "migrations": {"enabled": False},
        "serviceAccount": {"create": False},
        "tests": {"enabled": False},
        "api": {"drainSeconds": 0, "podDisruptionBudget": {"enabled": False}},
        "pools": {"convert": None},
    },
}
"""Name -> values."""

DECLARED = {
    "Secret": {
        "database", "queue", "own-0", "own-1", "own-2", "own-3", "own-postgres", "own-redis", "own-flower", "own-registry",
        "own-proxy", "models-tls", "theirs",
    },
    "ConfigMap": {"company-ca"},
    "PersistentVolumeClaim": {"shared-models"},
    "ServiceAccount": {"default"},
}  # fmt: skip
"""Kind -> what the operator has made before, in these sets."""
