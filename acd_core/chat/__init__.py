"""Conversations to token ids, by the model's own chat template: nothing lost, nothing forged."""

from acd_core.chat.conversation import Conversation, Message, check_conversation, check_tools, is_continued
from acd_core.chat.layout import SOFT, Chat, Layout

__all__ = ["SOFT", "Chat", "Conversation", "Layout", "Message", "check_conversation", "check_tools", "is_continued"]
