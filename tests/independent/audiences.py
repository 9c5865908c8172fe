"""Retention and the recent churned, counted without Ebbtide (issue 3, "What it must show", 2).

    audiences.py retention EVENTS.jsonl.gz COUNT
        prints {cohort: [size, retained in period 0, 1, ... COUNT]} by week of the first purchase (from Monday).
    audiences.py recent EVENTS.jsonl.gz FIRST-DAY LAST-DAY FROM-DAYS TO-DAYS CHURNED-DAYS
        prints {day: [users]} at the first of every month: churned, and idle for FROM <= days < TO.

Standard library only: plain loops over each user's sorted events, nothing incremental.
"""

import gzip
import json
import sys
from datetime import date, datetime, timedelta, timezone

DAY = 86_400_000


def purchases(path):
    users = {}
    with gzip.open(path, "rt") as lines:
        for line in lines:
            event = json.loads(line)
            users.setdefault(event["user_id"], []).append(int(event["time"]))
    return {user: sorted(times) for user, times in users.items()}


def retention(path, count):
    matrix = {}
    for times in purchases(path).values():
        start = times[0]
        day = datetime.fromtimestamp(start / 1000, timezone.utc).date()
        cohort = str(day - timedelta(days=day.weekday()))
        row = matrix.setdefault(cohort, [0] * (count + 2))
        row[0] += 1
        for k in range(count + 1):
            low, high = start + k * 7 * DAY, start + (k + 1) * 7 * DAY
            row[k + 1] += any(start < at and low <= at < high for at in times)
    return matrix


def recent(path, first, last, low, high, churned):
    users = purchases(path)
    audiences = {}
    day = date.fromisoformat(first)
    while day <= date.fromisoformat(last):
        now = int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp() * 1000)
        audience = []
        for user, times in users.items():
            known = [at for at in times if at <= now]
            if not known:
                continue
            idle = now - known[-1]
            if idle >= churned * DAY and low * DAY <= idle < high * DAY:
                audience.append(user)
        audiences[str(day)] = sorted(audience)
        day = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return audiences


if sys.argv[1] == "retention":
    print(json.dumps(retention(sys.argv[2], int(sys.argv[3]))))
else:
    print(json.dumps(recent(*sys.argv[2:5], *map(int, sys.argv[5:8]))))
