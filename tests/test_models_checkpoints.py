"""Checkpoints of transformers against transformers' own, and students that are a part of their teacher."""

import pytest
import torch
from toy_berts import PAD, TOKENS, network, texts

from kd_lib.data.source import DataNotFound
from kd_lib.models import build, check, copy_layers, reads_texts
from kd_lib.models.checkpoints import chosen_layers
from kd_lib.models.transformer import transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of four layers, as transformers writes it."""
    library, path = transformers(), tmp_path_factory.mktemp("checkpoint")
    config = library.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
        num_labels=5,
        attn_implementation="eager",
    )
    torch.manual_seed(7)
    library.BertForSequenceClassification(config).save_pretrained(path)
    return path


@torch.no_grad()
def test_it_is_the_bert_of_transformers(folder):
    """Logits, states, and the softmax of the scores, which are transformers' own attention probabilities."""
    theirs = transformers().BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    net = build(f"bert:{folder}", **TOKENS).eval()
    net.classifier.load_state_dict(theirs.classifier.state_dict())
    net.keep_attentions, ids = True, texts()
    real = ids != PAD
    segments = torch.zeros_like(ids)
    segments[:, 4:] = 1
    expected = theirs(
        input_ids=ids,
        attention_mask=real.long(),
        token_type_ids=segments,
        output_attentions=True,
        output_hidden_states=True,
    )
    out = net(ids)
    torch.testing.assert_close(out.logits, expected.logits)
    assert len(out.maps) == 5 and len(out.attentions) == 4
    for h, theirs in zip(out.maps, expected.hidden_states, strict=True):
        torch.testing.assert_close(h, theirs * real[..., None])
    for scores, p in zip(out.attentions, expected.attentions, strict=True):
        mine = scores.masked_fill(~real[:, None, None], -torch.inf).softmax(3)
        torch.testing.assert_close(mine * real[:, None, :, None], p * real[:, None, :, None])
    net.keep_attentions = False
    plain = net(ids)
    assert plain.attentions == ()
    torch.testing.assert_close(plain.logits, out.logits)


@pytest.mark.parametrize(("which", "layers"), [("first", [0, 1]), ("every-second", [1, 3])])
def test_chosen_layers_of_a_checkpoint(folder, which, layers):
    name = f"bert-{which}-2:{folder}"
    check(name)
    whole, part = build(f"bert:{folder}", **TOKENS), build(name, **TOKENS)
    assert part.training and len(whole.stages) == 4
    for own, i in zip(part.stages, layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), whole.stages[i].parameters(), strict=True))
    for name in ("embeddings", "pooler"):
        pairs = zip(getattr(part, name).parameters(), getattr(whole, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match=f"not {which} 5 layers in a network of 4"):
        build(f"bert-{which}-5:{folder}", **TOKENS)


def test_every_second_of_twelve_ends_with_the_last():
    assert chosen_layers("every-second", n_from=12, n=6) == [1, 3, 5, 7, 9, 11]
    assert chosen_layers("first", n_from=12, n=6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"unknown choice of layers: 'frist'\. Did you mean 'first'"):
        chosen_layers("frist", n_from=12, n=6)


def test_unpublished_checkpoint_has_the_same_shapes_and_reads_no_weights(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    bare, full = build(f"bert:{tmp_path}", published=False, **TOKENS), build(f"bert:{folder}", **TOKENS)
    assert {k: v.shape for k, v in bare.state_dict().items()} == {k: v.shape for k, v in full.state_dict().items()}
    bare.load_state_dict(full.state_dict())
    assert torch.equal(bare.eval()(texts()).logits, full.eval()(texts()).logits)
    with pytest.raises(DataNotFound, match=r"no checkpoint .* Set KD_DOWNLOAD=1 to fetch it"):
        build(f"bert:{tmp_path}", **TOKENS)


def test_a_checkpoint_that_is_not_there():
    name = "bert:google-bert/no-such-bert"
    check(name)  # an id is not looked up
    with pytest.raises(DataNotFound, match=r"'bert:google-bert/no-such-bert': no checkpoint .* Set KD_DOWNLOAD=1"):
        build(name, **TOKENS)
    with pytest.raises(ValueError, match="'no such/folder/anywhere' is neither a folder nor an id"):
        check("bert:no such/folder/anywhere")


def test_a_checkpoint_that_does_not_fit(folder, tmp_path):
    for sizes in ({"vocabulary": 41}, {"pad": 1}):
        with pytest.raises(
            ValueError, match=r"knows 40 tokens and pads with 0; .*with this checkpoint's own tokenizer"
        ):
            build(f"bert:{folder}", **{**TOKENS, **sizes})
    with pytest.raises(ValueError, match="reads at most 16 tokens, the data has texts of 17"):
        build(f"bert:{folder}", **{**TOKENS, "max_length": 17})
    check(f"bert:{folder}")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        check(f"bert:{tmp_path}")


def test_a_small_vocabulary_is_not_a_checkpoints(tmp_path):
    """Token 5 of a vocabulary of one's own is not token 5 of BERT's, so much smaller ones are refused."""
    library = transformers()
    config = library.BertConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="knows 400 tokens"):
        build(f"bert:{tmp_path}", published=False, **TOKENS)
    build(f"bert:{tmp_path}", published=False, **{**TOKENS, "vocabulary": 390})  # rounded up


def test_a_checkpoint_of_something_else(tmp_path):
    library = transformers()
    config = library.DistilBertConfig(vocab_size=40, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
    library.DistilBertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"needs embeddings, encoder\.layer, pooler; DistilBertModel has no encoder"):
        build(f"bert:{tmp_path}", n_classes=2)


def test_weights_that_are_missing(folder, tmp_path):
    """A pooler may be, as in checkpoints without a sentence task; a layer may not."""
    library = transformers()
    model = library.BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.save_pretrained(tmp_path / "headless")
    net, full = build(f"bert:{tmp_path / 'headless'}", **TOKENS), build(f"bert:{folder}", **TOKENS)
    assert torch.equal(net.stages[3].output.dense.weight, full.stages[3].output.dense.weight)
    assert not torch.equal(net.pooler.dense.weight, full.pooler.dense.weight)
    model.encoder.layer = model.encoder.layer[:3]
    model.save_pretrained(tmp_path / "short")
    (tmp_path / "short" / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"lacks 16 weights, such as encoder\.layer\.3\."):
        build(f"bert:{tmp_path / 'short'}", **TOKENS)


@pytest.mark.parametrize(("which", "layers"), [("first", [0, 1]), ("every-second", [1, 3])])
def test_a_student_that_is_a_part_of_its_teacher(which, layers):
    teacher, student = network("bert-l4-d8", seed=1), network("bert-l2-d8-p10", seed=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    copy_layers(student, teacher, which)
    for own, i in zip(student.stages, layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), teacher.stages[i].parameters(), strict=True))
    for part in ("embeddings", "pooler", "classifier"):
        pairs = zip(getattr(student, part).parameters(), getattr(teacher, part).parameters(), strict=True)
        assert all(torch.equal(a, b) and a is not b for a, b in pairs)
    with torch.no_grad():
        student.classifier.weight.add_(1)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("bert-l2-d8", "bert-l4-d16", "the student has 8 features and 2 heads, the teacher 16 and 2"),
        ("bert-l2-d8", "bert-l4-d8-h4", "8 features and 2 heads, the teacher 8 and 4"),
        ("bert-l5-d8", "bert-l4-d8", "not first 5 layers in a network of 4"),
        ("resnet8-w2", "bert-l4-d8", "from transformer to transformer; ResNet is none"),
    ],
)
def test_layers_that_cannot_be_copied(student, teacher, message):
    pair = [build(name, **(TOKENS if reads_texts(name) else {})) for name in (student, teacher)]
    with pytest.raises(ValueError, match=message):
        copy_layers(*pair, "first")
