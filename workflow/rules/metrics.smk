"""Metrics: everything that figures and claims read and that needs no retraining."""


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
        runs=run_folder,
        blocks=blocks,
    shell:
        "{params.python} -m workflow.lib measure"
        " --paper {wildcards.paper}"
        " --experiment {wildcards.experiment}"
        " --plan {params.plan:q}"
        " --data {input.data:q}"
        " --runs {params.runs:q}"
        " --blocks {params.blocks}"
        " --metrics {output.metrics:q}"
        " 2>&1 | tee {log:q}"
