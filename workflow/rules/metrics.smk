"""Metrics: everything that figures and claims read and that needs no retraining; and which value a point has."""


rule measure:
    input:
        data=experiment_data,
        runs=experiment_runs,
    output:
        metrics="results/{paper}/metrics/{experiment}.parquet",
    log:
        "results/{paper}/logs/measure/{experiment}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        python=python,
        plan=handed(jobs.for_metrics),
        code=metrics_code,
        data=data_folder,
        runs=run_folder,
        seeds=all_seeds,
        block=block_size,
    shell:
        "{params.python} -m workflow.lib measure"
        " --paper {wildcards.paper}"
        " --experiment {wildcards.experiment}"
        " --plan {params.plan:q}"
        " --data {params.data:q}"
        " --runs {params.runs:q}"
        " --seeds {params.seeds}"
        " --block {params.block}"
        " --metrics {output.metrics:q}"
        " 2>&1 | tee {log:q}"


rule points:
    output:
        table="results/{paper}/metrics/{figure}.csv",
    log:
        "results/{paper}/logs/points/{figure}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        python=python,
        plan=handed(jobs.for_figure, "figure"),
    shell:
        "{params.python} -m workflow.lib points"
        " --paper {wildcards.paper}"
        " --figure {wildcards.figure}"
        " --plan {params.plan:q}"
        " --table {output.table:q}"
        " 2>&1 | tee {log:q}"
