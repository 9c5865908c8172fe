"""BG/NBD without Ebbtide: estimates from a history of events, and P(alive) of every transition (SPEC-WINBACK 13, SPEC 3).

    bg_nbd.py fit EVENTS.jsonl.gz UNTIL-DAY DAYS-PER-UNIT
        prints {"r", "alpha", "a", "b", "log_likelihood", "users"}: the maximum of Fader, Hardie and Lee's likelihood
        (2005, equation 6), found by coordinate search over the logarithms, so that nothing of Ebbtide's optimiser is here.
    bg_nbd.py alive EVENTS.jsonl.gz R ALPHA A B  < TRANSITIONS.jsonl
        prints the number of transitions with a p_alive and the largest distance from the formula's value, computed from
        the events up to that moment.

Standard library only.
"""

import gzip
import json
import math
import sys
from datetime import date, datetime, timezone

DAY = 86_400_000


def events(path):
    with gzip.open(path, "rt") as lines:
        for line in lines:
            event = json.loads(line)
            time = event["time"]
            if isinstance(time, str):
                millis = millis_of(time)
            else:
                millis = int(time * 1000) if abs(time) < 1e11 else int(time)
            yield event["user_id"], millis


def millis_of(text):
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def summaries(path, until, unit):
    """x, t_x and T of each user, alike ones counted together."""
    days = {}
    for user, millis in events(path):
        day = millis // DAY
        if day <= until:
            days.setdefault(user, set()).add(day)
    alike = {}
    for active in days.values():
        first, last = min(active), max(active)
        key = (len(active) - 1, (last - first) / unit, (until - first) / unit)
        alike[key] = alike.get(key, 0) + 1
    return alike


def log_likelihood(alike, r, alpha, a, b):
    total = 0.0
    for (x, recency, age), users in alike.items():
        a1 = math.lgamma(r + x) - math.lgamma(r) + r * math.log(alpha)
        a2 = math.lgamma(a + b) + math.lgamma(b + x) - math.lgamma(b) - math.lgamma(a + b + x)
        a3 = -(r + x) * math.log(alpha + age)
        if x == 0:
            total += users * (a1 + a2 + a3)
            continue
        a4 = math.log(a) - math.log(b + x - 1) - (r + x) * math.log(alpha + recency)
        high = max(a3, a4)
        total += users * (a1 + a2 + high + math.log(math.exp(a3 - high) + math.exp(a4 - high)))
    return total


def fit(alike):
    """Rosenbrock-free hill climbing: coordinate and pattern moves with a shrinking step."""
    point = [0.0, math.log(10.0), 0.0, 0.0]
    value = lambda logs: log_likelihood(alike, *map(math.exp, logs))
    best, step = value(point), 0.5
    while step > 1e-7:
        before = list(point)
        for axis in range(4):
            for direction in (step, -step):
                trial = list(point)
                trial[axis] += direction
                found = value(trial)
                if found > best:
                    point, best = trial, found
                    break
        if point == before:
            step /= 2
            continue
        # Hooke and Jeeves: try the same way once more.
        while True:
            trial = [2 * now - then for now, then in zip(point, before)]
            found = value(trial)
            if found <= best:
                break
            before, point, best = point, trial, found
    return [math.exp(log) for log in point], best


def p_alive(x, recency, age, r, alpha, a, b):
    if x == 0:
        return 1.0
    return 1 / (1 + a / (b + x - 1) * ((alpha + age) / (alpha + recency)) ** (r + x))


def main(mode, path, *rest):
    if mode == "fit":
        until = (date.fromisoformat(rest[0]) - date(1970, 1, 1)).days
        alike = summaries(path, until, float(rest[1]))
        (r, alpha, a, b), best = fit(alike)
        found = {"r": r, "alpha": alpha, "a": a, "b": b, "log_likelihood": best, "users": sum(alike.values())}
        print(json.dumps(found))
        return
    parameters = [float(value) for value in rest]
    times = {}
    for user, millis in events(path):
        times.setdefault(user, []).append(millis)
    compared, worst, users = 0, 0.0, set()
    for line in sys.stdin:
        record = json.loads(line)
        at = millis_of(record["effective_at"])
        # What time did at a moment comes before what the user does at it.
        last_known = at - 1 if record["kind"] == "worsened" else at
        known = [millis for millis in times[record["user_id"]] if millis <= last_known]
        first, last = min(known), max(known)
        x = len({millis // DAY for millis in known}) - 1
        expected = p_alive(x, (last - first) / DAY, (at - first) / DAY, *parameters)
        worst = max(worst, abs(expected - record["p_alive"]))
        compared += 1
        users.add(record["user_id"])
    print(json.dumps({"compared": compared, "users": len(users), "worst": worst}))


main(*sys.argv[1:])
