"""What the jobs that rewrite an ONNX graph ask of its nodes, bodies of If and Loop included."""

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16


def bodies(node):
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        for graph in attribute.graphs:
            yield graph


def reads(node):
    """Names that a node reads, those that its bodies take from outside included."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for inner in body.node:
            names |= reads(inner) - own
            own.update(inner.output)
        names |= {value.name for value in body.output} - own
    return names


def rename(node, old, new):
    """Read `new` where the node, or a body of it, reads `old`."""
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
    for body in bodies(node):
        for inner in body.node:
            rename(inner, old, new)
        for value in body.output:
            if value.name == old:
                value.name = new


def tensor_types(model):
    """Element type of each tensor of the outer graph that is known."""
    graph = model.graph
    types = {}
    for values in (graph.value_info, graph.output, graph.input):
        for value in values:
            if value.type.tensor_type.elem_type:
                types[value.name] = value.type.tensor_type.elem_type
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return types


def key(node):
    """The first value that a node makes, which no other node makes; names may be shared or missing."""
    return next(filter(None, node.output), "")


def name_of(node):
    """As --keep-fp32 takes it and errors say it."""
    return node.name or "%s_%s" % (node.op_type, key(node))


def unique_names(nodes):
    """A name for each node that no other has: its own one, or that with a number."""
    names, taken = [name_of(node) for node in nodes], set()
    found, reserved = [], set(names)
    for name in names:
        unique, number = name, 1
        while unique in taken or (number > 1 and unique in reserved):
            number += 1
            unique = "%s_%d" % (name, number)
        taken.add(unique)
        found.append(unique)
    return found


def name_nodes(graph):
    for node, name in zip(graph.node, unique_names(graph.node)):
        node.name = name


def sort(graph):
    """Each node behind those that it reads from: the converter appends its casts."""
    producers = {name: node for node in graph.node for name in node.output}
    done, ordered = set(), []

    for wanted in graph.node:
        waiting = [wanted]
        while waiting:
            node = waiting[-1]
            sources = [producers[name] for name in reads(node) if name in producers]
            missing = [each for each in sources if id(each) not in done]
            if id(node) in done or not missing:
                waiting.pop()
                if id(node) not in done:
                    done.add(id(node))
                    ordered.append(node)
            else:
                waiting += missing
    nodes = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)
