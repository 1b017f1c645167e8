"""Robustness: a paper's claims on a hundred fresh seeds. Not part of the default run: `snakemake --cores 4 robustness`."""


rule fresh_seeds:
    output:
        shares="results/{paper}/robustness/robustness.csv",
    log:
        "results/{paper}/logs/robustness.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        python=python,
        folder=subpath(output.shares, parent=True),
        code=claims_code,
    shell:
        "{params.python} -m workflow.lib robustness"
        " --paper {wildcards.paper}"
        " --folder {params.folder:q}"
        " 2>&1 | tee {log:q}"


rule robustness:
    input:
        shares=collect(rules.fresh_seeds.output.shares, paper=plan.papers),
