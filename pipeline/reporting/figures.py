"""Numbers, times and sizes as the page writes them."""

import json
import time
from typing import Any

from pipeline.reporting.scores import Metric

LONGEST = 70


def count(value: float) -> str:
    """Example: 1234567 -> "1,234,567" """
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """A share as a percentage; small ones keep a digit that tells. Example: 0.934 -> "93.4 %", 0.0004 -> "0.04 %" """
    value = 100 * share
    return f"{value:.2f} %" if 0 < value < 0.1 else f"{value:.1f} %"


def duration(seconds: float) -> str:
    """Example: 42.31 -> "42.3 s", 95 -> "1:35", 3725 -> "1:02:05" """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def size(value: float) -> str:
    """Bytes in binary units. Example: 1536 -> "1.5 KiB", 5 -> "5 B" """
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:,.1f} {unit}"


def when(seconds: float) -> str:
    """Local time. Example: "2026-11-22 14:05" """
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def plain_number(value: float, sign: str = "") -> str:
    """Four digits that tell. Example: 0.123456 -> "0.1235", 2e-05 -> "2e-05" """
    return f"{sign}{value:.1f}" if sign else f"{value:.4g}"


def score(value: float, metric: Metric) -> str:
    """A share as a percentage, an amount as a number."""
    return f"{100 * value:.1f} %" if metric.is_share else f"{value:,.5g}"


def change(value: float, metric: Metric) -> str:
    """A difference with its sign; of shares in percentage points. Example: 0.25 -> "+25.0" """
    return f"{100 * value:+.1f}" if metric.is_share else f"{value:+,.4g}"


def tone(metric: Metric) -> str:
    """The CSS class of a change: up for better, down for worse, "" for neither."""
    difference = metric.change
    if not difference or not metric.is_share:
        return ""
    return "up" if (difference < 0) == metric.lower_is_better else "down"


def setting(value: Any) -> str:
    """A setting's value on one line. Example: 1e-05 -> "1e-05", ["q", "k"] -> "q, k" """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def brief(value: Any) -> str:
    """A setting's value in at most about 70 characters of one line."""
    text = " ".join(setting(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
