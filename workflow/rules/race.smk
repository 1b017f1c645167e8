"""The race: every optimizer on every problem of config/race.yaml. Not part of the default run: `snakemake --cores 4 race`.

One job tunes and judges one optimizer on one problem, on the CPU, because it counts CPU seconds.
"""


include: "race_common.smk"


rule race_pair:
    output:
        pair="results/race/runs/{problem}/{entrant}.json",
    log:
        "results/race/logs/{problem}/{entrant}.log",
    wildcard_constraints:
        problem="[a-z0-9_]+",
        entrant="[A-Za-z_][A-Za-z0-9_.]*",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=race_needs("mem_mb"),
        runtime=race_needs("runtime"),
    params:
        python=python,
        plan=race_handed_pair,
        code=race_code,
    shell:
        "{params.python} -m workflow.lib race"
        " --plan {params.plan:q}"
        " --threads {threads}"
        " --output {output.pair:q}"
        " 2>&1 | tee {log:q}"


rule race_results:
    input:
        pairs=race_pairs,
    output:
        table="results/race/race.csv",
        board="results/race/leaderboard.md",
        drawn=collect(
            "results/race/figures/{figure}.{kind}",
            figure=["matrix", "profiles", "winners"],
            kind=["pdf", "png", "csv", "rst", "json"],
        ),
    log:
        "results/race/logs/race.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        python=python,
        plan=race_plan,
        folder=subpath(output.table, parent=True),
        code=race_results_code,
    shell:
        "{params.python} -m workflow.lib standings"
        " --plan {params.plan:q}"
        " --runs {params.folder:q}/runs"
        " --folder {params.folder:q}"
        " 2>&1 | tee {log:q}"


# A figure of the race is no paper's.
ruleorder: race_results > draw


rule race:
    input:
        rules.race_results.output,
