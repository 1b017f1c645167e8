"""What the rules of the race look up in its plan."""

@functools.cache
def raced():
    """The race as it is planned."""
    with exit_on_user_error():
        return rooms.make_race(plan)


if plan.race or plan.race_problems:
    raced()  # told before anything runs, whatever was asked for


@functools.cache
def race_pairs(wildcards):
    """The pairs of a problem and an optimizer that are not refused, as the paths of their files."""
    with exit_on_user_error():
        refused = raced().refusals(rooms.room)
    pairs = [(problem, rule) for problem in raced().problems for rule in raced().rules]
    return [
        f"results/race/runs/{problem}/{rule}.json"
        for problem, rule in pairs
        if (problem, rule) not in refused
    ]


def race_handed(name, section):
    """The file with what a job of the race gets of its plan."""
    folder = workflow.modifier.path_modifier.replace_prefix("results/race/plan")
    return jobs.hand(folder, name, section.model_dump(mode="json"))


def race_handed_pair(wildcards):
    """The file with one pair."""
    with exit_on_user_error():
        return race_handed(
            f"{wildcards.problem}-{wildcards.entrant}",
            raced().only(wildcards.problem, wildcards.entrant),
        )


def race_plan(wildcards):
    """The file with all of it."""
    return race_handed("race", raced())


def race_code(wildcards):
    """A digest of the library files behind a pair, and of those of a rule from elsewhere."""
    with exit_on_user_error():
        package = rooms.package(raced().problem(wildcards.problem).base(rooms.room))
        brought = optim.files(wildcards.entrant)
    return code_digest(
        "workflow.lib.race.running",
        *(f"{package}.{part}" for part in ("data", "training", "metrics")),
        *brought,
    )


def race_results_code(wildcards):
    """A digest of the library files behind the race's table and pictures, and of the texts of their captions."""
    digest = hashlib.sha256(code_digest("workflow.lib.race.writing").encode())
    for path in sorted(pathlib.Path(ROOT, "workflow", "report", "race").glob("*.rst")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def race_needs(what):
    """A resource function: what a pair asks of the machine, which is that of all its runs one after another."""

    def needed(wildcards, attempt):
        with exit_on_user_error():
            problem = raced().problem(wildcards.problem)
            settings = problem.base(rooms.room).settings
        protocol = problem.protocol
        runs = len(problem.lrs) + protocol.extensions * protocol.extension_points + 1
        if what == "runtime":
            return runs * settings.needs().runtime
        # Twice that of a training: what one run leaves is not all given back before the next.
        seeds = max(protocol.tuning_seeds, protocol.judging_seeds)
        return attempt * 2 * settings.memory([wildcards.entrant], seeds)

    return needed
