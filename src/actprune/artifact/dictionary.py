"""L4: what typical headers say, for deflate to refer to: a small network's header costs a fifth of its length.

Part of format 1: it must never change, or files written before could not be read. Deflate finds the end of it cheapest,
so the most common text comes last.
"""

from __future__ import annotations

_RECIPES = (
    '"WandaSnipApozRandomGradientMagnitudeneuron_weightRewindReinitialiseNeuronChannelHeadBlockEqualSurvivorsLayerByLayer'
    '"cifar10fashion-mnistdigitslenet-300-100lenet-5-caffemlpresnet20wandasniprandomapoz"schedule":{"type":"Cubic",'
    '"begin":0,"end":1000,"every":100},"schedule":{"type":"OneShot","at_step":null},"unit":{"type":"Neuron"},'
    '"criterion":{"type":"Apoz","fires_above":null},"criterion":{"type":"Magnitude"},"budget":{"type":"Budget",'
    '"kind":"compression","scope":"row","scope":"global","allocation":"erk","count_on":"observe","skip_output":false,'
    '"keep_at_least":0,"remove_orphans":false,"orphans_inside":true,'
)
_CONVOLUTIONS = (
    '["operator.mul",["sym_size.int",["transpose","transpose.int",["unflatten.int",["select.int",["squeeze.dim",["unsqueeze"'
    '["scaled_dot_product_attention","scaled_dot_product_attention",["self_attn.in_proj_weight","self_attn.out_proj.bias"'
    '["permute","permute",["softmax","softmax.int",["matmul","matmul",["gelu","gelu",["cat","cat",[["max_pool2d",'
    '"max_pool2d",["relu",[2,2],[2,2]]],["mean","mean.dim",["layer_norm","layer_norm",["add",[16],"norm1.weight",'
    '"norm1.bias",1e-05,false]],["reshape","reshape",["relu",[-1,"features.0.weight","downsample.0.weight",'
    '"layer1.0.bn1.num_batches_tracked",[],"a:raw","int64"],"blocks.0.conv1.weight",[16,16,3,3],"c:shared4"],"bn.bias",'
    '{"inputs":["x"],"steps":[["conv2d","conv2d",["x","conv1.weight","conv1.bias",[1,1],[0,0],[1,1],1]],["batch_norm",'
    '"batch_norm",["conv2d","bn1.weight","bn1.bias","bn1.running_mean","bn1.running_var",false,0.1,1e-05,false]],'
    '["relu","relu",["batch_norm"]],["conv2d_1","conv2d",["relu","conv2.weight",null,[1,1],[1,1]]],["batch_norm_1",'
    '"batch_norm",["conv2d_1","bn2.weight","bn2.bias","bn2.running_mean","bn2.running_var",false,0.1,1e-05,false]],'
    '["add","add.Tensor",["batch_norm_1","relu"]],["relu_1","relu",["add"]],["adaptive_avg_pool2d","adaptive_avg_pool2d",'
    '["relu_1",[1,1]]],["flatten","flatten.using_ints",["adaptive_avg_pool2d",1]],["linear","linear",["flatten",'
    '"fc.weight","fc.bias"]]],"result":"linear"},'
)
_MLP = (
    '{"structure":{"inputs":["input"],"steps":[["linear","linear",["input","0.weight","0.bias"]],["relu","relu",["linear"]],'
    '["flatten","flatten.using_ints",["input",1]],["linear_inputs","index_select",["flatten",-1,"fc1.columns"]],'
    '["linear","linear",["linear_inputs","fc1.weight","fc1.bias"]],["relu","relu",["linear"]],["linear_1","linear",'
    '["relu","fc2.weight","fc2.bias"]],["relu_1","relu",["linear_1"]],["linear_2","linear",["relu_1","fc3.weight",'
    '"fc3.bias"]],["relu_2","relu",["linear_2"]],["linear_3","linear",["relu_2","fc4.weight","fc4.bias"]],["relu_3",'
    '"relu",["linear_3"]],["linear_4","linear",["relu_3","fc5.weight","fc5.bias"]]],"result":"linear_4"},"tensors":'
    '[["fc1.weight",[300,784],"c:shared4"],["fc1.bias",[300],"d:shared3"],["fc1.columns",[400],"c:index","int64",784],'
    '["fc2.weight",[200,300],"c:shared3"],["fc2.bias",[200],"d:shared3"],["fc3.weight",[100,200],"c:shared3"],'
    '["fc3.bias",[100],"d:shared2"],["fc4.weight",[50,100],"c:shared4"],["fc4.bias",[50],"a:fp32"],["fc5.weight",'
    '[10,50],"d:int5"],["fc5.bias",[10],"a:shared2"]],"about":{"method":"magnitude","data":"mnist","model":"article",'
    '"seed":0,"asked":0.990,"obtained":0.990,"validation_accuracy":0.98,"test_accuracy":0.98,"recipe":{"type":"Recipe",'
    '"name":"activation","criterion":{"type":"CounterTimesWeight","count":"nonzero","across":"layer_mean","fires_above":'
    'null},"budget":{"type":"Budget","kind":"sparsity","value":0.990,"of":"prunable"},"schedule":{"type":'
    '"AccuracyTriggered","cycles":5,"start":0.8,"stop":0.98,"decay":0.8},"recovery":{"type":"Keep"},"unit":{"type":'
    '"Weight"},"scope":"layer","allocation":"uniform","count_on":"train","count_every":1,"regrow":"frozen","monotone":'
    'true,"skip_output":true,"keep_at_least":1,"remove_orphans":true,"orphans_inside":true,"allow_collapse":[],'
    '"reset_counts":false,"seed":0},"fingerprint":"","shape":[1,28,28],"versions":{"actprune":"0.1.0","torch":"2.13.0",'
    '"constriction":"0.5.0"}}}'
)
DICTIONARY = (_RECIPES + _CONVOLUTIONS + _MLP).encode()
