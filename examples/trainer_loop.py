"""A Hugging Face `Trainer` on the text of the Python language reference, with a teacher."""

import sys
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from stillhouse import Frozen, Taught

text = torch.tensor(list("\n".join(topics.values()).encode()))  # bytes are the tokens
blocks = text[: len(text) // 64 * 64].view(-1, 64)
seen = [{"input_ids": block, "labels": block} for block in blocks[:2000]]


def llama(width, layers):
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, num_attention_heads=4, max_position_embeddings=64, **sizes))


def arguments(folder, steps, **changes):
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 5e-3} | changes
    return TrainingArguments(output_dir=folder, max_steps=steps, report_to="none", save_strategy="no", **settings)


class TaughtTrainer(Taught, Trainer):
    """A Trainer with a teacher."""


if __name__ == "__main__":
    torch.manual_seed(0)
    args = arguments(sys.argv[1] if len(sys.argv) > 1 else "trainer-output", 40)
    large, small = llama(64, 2), llama(16, 1)
    Trainer(model=large, args=args, train_dataset=seen).train()
    trainer = TaughtTrainer(model=small, args=args, train_dataset=seen, teacher=Frozen(large))
    trainer.train()
    print(f"last loss: {trainer.state.log_history[-1]['train_loss']:.3f}")
