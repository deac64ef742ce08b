"""Tiny files of measured rows, one of each format, with numbers made up for the tests."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

FILES = {
    "gemm": """source,gpu,dtype,m,n,k,batch,latency_us
aic/vllm-0.24.0,H100-SXM,bf16,512,4096,4096,1,40.0
aic/trtllm-1.3.0rc20,H100-SXM,fp8_block,512,4096,4096,1,30.0
neusight/test-bmm,A100-PCIE-40GB,fp32,128,128,64,16,50.0
""",
    "gemm_consensus": """gpu,dtype,m,n,k,batch,lat_min_us,lat_med_us,lat_max_us,n_fw
H100-SXM,bf16,512,4096,4096,1,35.0,40.0,45.0,3
""",
    "attention": """source,gpu,dtype,phase,batch,q_len,kv_len,heads,kv_heads,head_dim,latency_us
aic/vllm-0.24.0-vllm_flash_attn_fa,H100-SXM,bf16,prefill,2,1024,1024,32,8,128,60.0
aic/vllm-0.24.0-vllm_flash_attn_fa,H100-SXM,bf16/kv-fp8,decode,8,1,4096,32,8,128,25.0
aic/sglang-0.5.14,H100-SXM,bf16,encoder,2,256,256,16,16,64,20.0
""",
    "attention_consensus": """gpu,dtype,phase,batch,q_len,kv_len,heads,kv_heads,head_dim,lat_min_us,lat_med_us,lat_max_us,n_fw
H100-SXM,bf16,decode,64,1,4096,32,8,128,300.0,330.0,400.0,3
H100-SXM,bf16,decode,64,1,8192,32,8,128,300.0,700.0,1400.0,3
""",
    "moe": """source,gpu,dtype,num_tokens,hidden,inter,topk,num_experts,tp,ep,distribution,latency_us
aic/vllm-0.24.0,H100-SXM,bf16,256,2048,768,8,128,1,8,balanced,150.0
aic/trtllm-1.3.0rc20,H100-SXM,int4_wo,256,2048,768,8,128,2,1,power_law_1.2,150.0
""",
    "elementwise": """source,gpu,dtype,op,rows,cols,latency_us
neusight/test,T4,fp32,add,16384,1024,900.0
vidur/mlp_act,A40,fp16,silu_mul,1024,11008,120.0
llmcompass,MI210,fp32?,gelu,65536,1,21.0
""",
    "norm_softmax": """source,gpu,dtype,op,rows,cols,latency_us
neusight/test,A100-PCIE-40GB,fp32,layernorm,8192,1024,83.0
vidur/input_layernorm,A40,fp16,rmsnorm,1024,4096,50.0
neusight/test,V100-PCIE-32GB,fp32,softmax,8192,1024,110.0
""",
    "conv": """source,gpu,dtype,n,c,h,w,k,r,s,stride,pad_h,pad_w,algo,latency_us
deepbench/fwd,V100-SXM2-16GB,fp32,8,64,56,56,64,3,3,1,1,1,WINOGRAD,150.0
neusight/train,P100-PCIE-16GB,fp32,32,64,28,28,128,3,3,1,1,,,900.0
""",
    "collectives": """source,gpu,dtype,collective,ranks,bytes,latency_us
aic/nccl-2.29.2,H100-SXM,fp16,all_reduce,8,16777216,78.0
aic/nccl-2.29.2,H100-SXM,fp16,all_gather,8,16777216,44.0
aic/engine-vllm-0.24.0,H100-SXM,bf16,all_reduce,8,16384,5.2
""",
    "model_trace": """source,gpu,model,mode,seq,batch,op,target,input_shapes,output_shape,count,fw_ms,bw_ms
neusight/label,H100-SXM,gpt2_large,train,1024,1,call_module,transformer.h.*.ln_1,"[[1, 1024, 1280]]","(1, 1024, 1280)",1,0.03,0.03
neusight/label,H100-SXM,gpt2_large,inf,1024,4,call_function,addmm,"[[1280], [4096, 1280], [1280, 1280]]","(4096, 1280)",1,0.3,0.0
""",
    "end_to_end": """source,gpu,n_gpus,model,phase,batch,in_len,out_len,dtype,metric,value,unit,ref
neusight/label,H100-SXM,1,bert_large,inference-forward,8,512,0,fp32,e2e_latency,69.8,ms,made up
gpt-fast,A100-SXM4-80GB,1,Llama-3.1-8B,decode,1,5,200,int8w,tokens_per_s,137.0,tok/s,made up
""",
    "served": """source,gpu,n_gpus,model,phase,batch,in_len,out_len,dtype,metric,value,unit,ref
aic/silicon,H100-SXM,2,Qwen3-32B,serve-agg,8,1024,128,fp8,tpot,12.0,ms,tp=2;pp=1;dp=;mtp=1;ep=1;x;conc=8
aic/silicon,H100-SXM,2,Qwen3-32B,serve-agg,8,1024,128,fp8,ttft,120.0,ms,tp=2;pp=1;dp=;mtp=1;ep=1;x;conc=8
""",
    "power": """source,gpu,n_gpus,workload,config,metric,value,unit
aic/vllm-0.22.0,H100-SXM,1,decode,b=64;q=1;kv=4096;h=32;kvh=8;d=128;bfloat16/kv-bfloat16,avg_power_watts,500.0,W
aic/vllm-0.22.0,H100-SXM,1,moe,t=256;hid=2048;int=768;topk=8;E=128;tp=1;ep=8;fp8;balanced,avg_power_watts,450.0,W
""",
}
"""By the name of the file without its ending."""


def write(folder: Path, name: str, text: str | None = None) -> str:
    """The path of a file with this text, by default that of the name."""
    path = folder / f"{name}.csv"
    path.write_text(FILES[name] if text is None else text)
    return str(path)
