"""Data: the synthetic or prepared data of a block of seeds."""


rule generate:
    input:
        code=stage_code("data"),
    output:
        data="results/{paper}/data/{experiment}/{seeds}.npz",
    log:
        "results/{paper}/logs/generate/{experiment}/{seeds}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=data_settings,
    shell:
        "python -m workflow.lib generate"
        " --paper {wildcards.paper}"
        " --experiment {wildcards.experiment}"
        " --settings {params.settings:q}"
        " --seeds {wildcards.seeds}"
        " --data {output.data:q}"
        " 2>&1 | tee {log:q}"
