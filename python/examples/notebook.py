"""A data frame becomes a click model: bags, a DLRM, early stopping, curves."""

import sys

import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import bagdot

LABEL = "recommended"
df = pd.read_csv(sys.argv[1] if len(sys.argv) > 1 else "data/clothing/reviews.csv.gz")
df["words"] = df["words"].str.split()  # lists become bags of ids
train, test = train_test_split(df, test_size=3 / 16, random_state=0)
train, valid = train_test_split(train, test_size=1 / 13, random_state=0)
(X, y), (Xv, yv), (Xt, yt) = ((d.drop(columns=LABEL), d[LABEL]) for d in (train, valid, test))
model = bagdot.Classifier(categorical=["clothing_id"], min_count=5, random_state=1, verbose=1)
model.fit(X, y, eval_set=(Xv, yv))
print(f"AUC on the test rows: {roc_auc_score(yt, model.predict_proba(Xt)[:, 1]):.4f}")
model.plot().save(sys.argv[2] if len(sys.argv) > 2 else "curves.html")
