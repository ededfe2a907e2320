"""Image towers in transformers' LLaVA and back: the same visual tokens to 1e-5, the same loss and answers; decoders of folders."""

import numpy as np
import pytest
import torch
from branch_towers import timm_vit
from house_models import CONFIG, TOKENIZER, small
from open_clip_towers import clip_and_config
from tiny_vlm import make_vlm

from wholegrain.data.preprocess import Preprocess
from wholegrain.downstream.answering.answerer import language_model
from wholegrain.downstream.answering.balance import Question
from wholegrain.downstream.answering.earlier_tower import EarlierTower
from wholegrain.downstream.answering.hand_over import image_tower_of, save_llava, to_llava
from wholegrain.downstream.answering.settings import AskSettings, Decoder, VisualTokens
from wholegrain.downstream.answering.task import AskTask
from wholegrain.errors import UserError
from wholegrain.towers import Model
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.small import small_text_tower
from wholegrain.towers.sources.timm import timm_tower

QUESTIONS = [Question("1", "a", "is there a red cup ?", ("yes",)), Question("2", "b", "what ?", ("dark blue",))]


def around(tower):
    text = small_text_tower(CONFIG, TOKENIZER.vocab_size)
    return Model(tower, text, PlainHead(Widths(tower.width, text.width, 8)), Preprocess(32), TOKENIZER).eval()


def open_clip(**vision):
    clip, config = clip_and_config(vision={"layers": 3, **vision}, quick_gelu=True)
    tower = split_open_clip(clip, config, 0)[0]
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return around(tower.eval())


def timm():
    torch.manual_seed(0)
    return around(timm_tower("vit_tiny_patch16_224", 32, {"embed_dim": 24, "num_heads": 2, "depth": 2}).eval())


def branches():
    model = open_clip()
    model.image_tower.add_branches(3)
    return model


MODELS = {"small": small, "open_clip": open_clip, "timm": timm, "branches": branches}


def answering(model, chosen, decoder=None):
    if chosen.layer == "penultimate":
        model.image_tower = EarlierTower(model.image_tower, model.preprocess.size)
    model.requires_grad_(False)
    task = AskTask(AskSettings(tokens=chosen, decoder=decoder or Decoder(width=32, layers=1, heads=2)), QUESTIONS)
    torch.manual_seed(1)
    return task, task.make_head(model).eval()


def pixels(model):
    side = model.preprocess.size
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def features(llava, normalised):
    stated = {name: getattr(llava.config, name) for name in ("vision_feature_layer", "vision_feature_select_strategy")}
    found = llava.get_image_features(pixel_values=normalised, **stated)
    return torch.stack(list(getattr(found, "pooler_output", found)))


CASES = [
    ("small", VisualTokens(), "WholegrainTower"),
    ("small", VisualTokens(layer="penultimate"), "WholegrainTower"),
    ("small", VisualTokens(("patches", "pooled")), "WholegrainTower"),
    ("open_clip", VisualTokens(), "WholegrainTower"),
    ("open_clip", VisualTokens(layer="penultimate"), "CLIPVisionModel"),
    ("timm", VisualTokens(), "WholegrainTower"),
    ("timm", VisualTokens(layer="penultimate"), "WholegrainTower"),
    ("branches", VisualTokens(("branches", "patches")), "WholegrainTower"),
    ("branches", VisualTokens(("branches",)), "WholegrainTower"),
]


@pytest.mark.parametrize(("name", "chosen", "kind"), CASES)
@torch.no_grad()
def test_visual_tokens_are_the_same_there_and_back(name, chosen, kind):
    model = MODELS[name]()
    task, head = answering(model, chosen)
    ours = head.sees(model.raw_images(pixels(model), task.needs))
    assert ours.std() > 0.1
    assert not torch.allclose(ours[0], ours[1], atol=1e-2)
    llava = to_llava(model, head)
    assert type(llava.model.vision_tower).__name__ == kind
    normalised = model.preprocess.normalise(pixels(model))
    kept = []
    llava.model.multi_modal_projector.register_forward_pre_hook(lambda _module, given: kept.append(given[0]))
    theirs = features(llava, normalised)
    assert torch.allclose(kept[0], ours, atol=1e-5)
    assert torch.allclose(theirs, head.llava.model.multi_modal_projector(ours), atol=1e-5)
    assert llava.config.image_seq_length == ours.shape[1]
    back = image_tower_of(llava)
    assert torch.allclose(head.sees(back(normalised, task.needs)), ours, atol=1e-5)
    next(back.parameters()).zero_()
    assert torch.equal(features(llava, normalised), theirs)  # copies


def test_penultimate_patches_are_what_enters_the_last_block():
    model = open_clip()
    plain = model.raw_images(pixels(model), frozenset({"patches"})).patches_BPV
    caught = []
    model.image_tower.transformer_blocks()[-1].register_forward_pre_hook(lambda _module, given: caught.append(given[0]))
    earlier = EarlierTower(model.image_tower, 32)
    found = earlier(model.preprocess.normalise(pixels(model)), frozenset({"patches"})).patches_BPV
    assert torch.equal(found, caught[-1][:, 1:])
    assert not torch.allclose(found, plain, atol=0.1)
    with pytest.raises(UserError, match="no two blocks"):
        EarlierTower(around(timm_vit(depth=1)).image_tower, 32)


@pytest.mark.parametrize("case", [0, 1, 4, 7])
def test_loss_and_answers_are_those_of_llava_with_pixels(case, tmp_path):
    """transformers' own forward, from pixels and one row of ids, with its own labels: an independent road to the loss and the answers."""
    import transformers

    name, chosen, _ = CASES[case]
    model = MODELS[name]()
    task, head = answering(model, chosen)
    targets = task.targets(QUESTIONS, [np.random.default_rng(n) for n in range(2)])
    with torch.no_grad():
        image = model.raw_images(pixels(model), task.needs)
        term = task.loss(head, image, targets)["answer"]
    save_llava(model, head, tmp_path / "llava")
    llava = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    words, count = task.words, head.sees(image).shape[1]
    normalised, total = model.preprocess.normalise(pixels(model)), 0.0
    for row, one in enumerate(QUESTIONS):
        asked = [*words.before, *[words.image] * count, *words.question(one.text)]
        ids = torch.tensor([asked + words.answer(one.answers[0])])
        labels = ids.clone()
        labels[:, : len(asked)] = -100
        with torch.no_grad():
            mean = llava(input_ids=ids, pixel_values=normalised[row : row + 1], labels=labels).loss
            said = llava.generate(input_ids=torch.tensor([asked]), pixel_values=normalised[row : row + 1], max_new_tokens=3, do_sample=False)
        total += float(mean) * len(words.answer(one.answers[0]))
        ours = head.answers(head.sees(image)[row : row + 1], [one.text], 3)
        assert words.texts([said[0, len(asked) :].tolist()]) == ours
    assert float(term.total) == pytest.approx(total, rel=1e-4)
    assert term.count == sum(len(words.answer(one.answers[0])) for one in QUESTIONS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "llava")
    assert tokenizer.encode("a red cup", add_special_tokens=False) == words.ids("a red cup")
    with pytest.raises(UserError, match="there already"):
        save_llava(model, head, tmp_path / "llava")


@pytest.mark.parametrize("kind", ["llava", "tied"])
def test_a_decoder_of_a_folder_is_kept_or_tuned(kind, tmp_path):
    import transformers

    make_vlm(tmp_path / "given")
    if kind == "tied":
        sizes = {"vocab_size": 43, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = transformers.LlamaConfig(**sizes, tie_word_embeddings=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "given")
        transformers.LlamaForCausalLM(text).save_pretrained(tmp_path / "tied")
        tokenizer.save_pretrained(tmp_path / "tied")
    model = small()
    task, head = answering(model, VisualTokens(), Decoder(folder=str(tmp_path / ("given" if kind == "llava" else "tied"))))
    assert {name.split(".")[2] for name, weight in head.named_parameters() if weight.requires_grad} == {"multi_modal_projector"}
    assert task.words.question("red ?") == task.words.ids("\nred ?\nAnswer the question using a single word or phrase. ASSISTANT:")
    if kind == "llava":
        given = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "given")
        assert torch.equal(head.llava.lm_head.weight[:40], given.lm_head.weight[:40])
    visual = head.sees(model.raw_images(pixels(model), task.needs))
    llava = to_llava(model, head)
    asked = [*task.words.before, *[task.words.image] * visual.shape[1], *task.words.question("red ?")]
    one, end = model.preprocess.normalise(pixels(model))[:1], task.words.end
    said = llava.generate(input_ids=torch.tensor([asked]), pixel_values=one, max_new_tokens=4, do_sample=False, eos_token_id=end)
    assert task.words.texts([said[0, len(asked) :].tolist()]) == head.answers(visual[:1], ["red ?"], 4)
    _, tuned = answering(small(), VisualTokens(), Decoder(folder=task.settings.decoder.folder, tune=True))
    assert all(weight.requires_grad for weight in tuned.parameters())


@pytest.mark.parametrize(("kind", "said"), [("cut", "lacks weights"), ("both ways", "is not causal|has a bias"), ("bias", "has a bias")])
def test_decoders_that_would_answer_at_random_are_refused(kind, said, tmp_path):
    import transformers

    sizes = {"vocab_size": 43, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "cut":
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    elif kind == "both ways":
        transformers.BertLMHeadModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    else:
        transformers.PhiForCausalLM(transformers.PhiConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said):
        language_model(tmp_path)


def test_towers_and_folders_that_cannot_be_read_are_refused(tmp_path):
    import transformers

    make_vlm(tmp_path / "given")
    llava = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "given")
    tower = image_tower_of(llava)  # layer -2 of CLIP's: LLaVA-1.5's own
    normalised = torch.randn(2, 3, 16, 16)
    kept = []
    llava.model.multi_modal_projector.register_forward_pre_hook(lambda _module, given: kept.append(given[0]))
    with torch.no_grad():
        features(llava, normalised)
        assert torch.allclose(tower(normalised, frozenset({"patches"})).patches_BPV, kept[0], atol=1e-5)
    llava.config.vision_feature_layer = -1
    with pytest.raises(UserError, match="hidden state -1"):
        image_tower_of(llava)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.json").write_text("{")
    for folder, said in (("none", "no config.json|tokeniser"), ("odd", "cannot be read|can be read")):
        with pytest.raises(UserError, match=said):
            answering(small(), VisualTokens(), Decoder(folder=str(tmp_path / folder)))
    _, head = answering(small(), VisualTokens(("branches",)))
    raw = small().raw_images(pixels(small()))
    with pytest.raises(UserError, match="no branches; take it out"):
        head.sees(raw)
